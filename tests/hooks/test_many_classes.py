"""Pictures of data with many classes, of images on an unknown scale, and of models without what a hook needs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.hooks.conftest import make_images
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.hooks import HOOKS, Scene
from pellucid.hooks.confusion_matrix import ConfusionMatrix
from pellucid.hooks.explanations import Explanations
from pellucid.hooks.hardest import Hardest
from pellucid.hooks.jacobian_classes import JacobianClasses
from pellucid.hooks.saliency import Saliency

Maker = Callable[..., Scene]
CLASSES = 70


@pytest.fixture
def many(make_scene: Maker) -> Scene:
    """A scene of 70 classes, in which 7 is often taken for 60, and 3 and 40 once for each other."""
    test = make_images(210, 3, (8, 8), 4)
    labels = torch.arange(CLASSES).repeat(3)
    predictions = labels.clone()
    predictions[labels == 7] = 60
    predictions[3], predictions[40] = 40, 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    scene = make_scene(channels=3, size=(8, 8))
    return replace(
        scene,
        model=model,
        test=ImageSet(test.pixels, labels),
        train=ImageSet(test.pixels, labels),
        logits=nn.functional.one_hot(predictions, CLASSES).float(),
        classes=tuple(f"class {label}" for label in range(CLASSES)),
    )


def test_classes_with_most_errors_are_shown(many: Scene) -> None:
    # three errors of 7 and of 60, two of 3 and of 40, then by index
    assert many.shown_classes(4) == [3, 7, 40, 60]
    assert many.shown_classes(6) == [0, 1, 3, 7, 40, 60]
    assert many.shown_classes(CLASSES) == list(range(CLASSES))


def test_chosen_classes_win(many: Scene) -> None:
    scene = replace(many, chosen_classes=(50, 2, 9))
    assert scene.shown_classes(12) == [50, 2, 9]
    assert scene.shown_classes(2) == [50, 2]
    assert scene.choice(2) == ""


def test_classes_without_images_can_be_left_out(many: Scene) -> None:
    kept = many.test.labels != 60
    scene = replace(many, test=many.test[kept.nonzero().flatten()], logits=many.logits[kept])
    assert scene.shown_classes(4) == [3, 7, 40, 60]
    assert scene.shown_classes(3, with_images=True) == [3, 7, 40]
    assert scene.first_of_each_class(3) == [3, 7, 40]


def test_confusion_matrix_sums_the_other_classes(many: Scene) -> None:
    artifact, *_ = ConfusionMatrix().run(many)
    counts = np.array(artifact.numbers["counts"])
    assert counts.shape == (CLASSES, CLASSES)
    assert counts.sum() == 210
    figure = artifact.figure
    assert figure is not None
    texts = [text.get_text() for text in figure.texts]
    assert "other" in texts
    assert "class 60" in texts
    assert "Shows 30 of 70 classes" in artifact.caption
    # two layers: correct and wrong; 30 classes and one for the others
    assert figure.axes[0].images[0].get_array().shape == (31, 31)
    others = [label for label in range(CLASSES) if label not in many.shown_classes(30)]
    # rows of 40 classes with three images each, all correct
    assert str(counts[np.ix_(others, others)].sum()) in texts


@pytest.mark.parametrize("hook", [Saliency(), Explanations(), JacobianClasses()])
def test_pictures_say_which_classes_they_show(many: Scene, hook: Saliency | Explanations | JacobianClasses) -> None:
    (artifact,) = hook.run(replace(many, methods=("gradient",)))
    assert "Shows 12 of 70 classes, those with the most errors first." in artifact.caption
    assert artifact.figure is not None
    assert "Shows 12 of 70 classes" in " ".join(" ".join(text.get_text() for text in artifact.figure.texts).split())


def test_mean_jacobian_of_many_classes_is_that_of_the_drawn_ones(many: Scene) -> None:
    (artifact,) = JacobianClasses().run(many)
    classes = artifact.numbers["jacobian_classes"]
    assert classes == many.shown_classes(12, with_images=True)
    assert artifact.arrays["mean_absolute_jacobian"].shape == (12, 12, 3, 8, 8)
    row = classes.index(7)
    images = many.test.floats((many.test.labels == 7).nonzero().flatten())
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: many.model(x[None])[0]))(images)[:, classes]
    expected = jacobians.detach().abs().mean(0)
    np.testing.assert_allclose(artifact.arrays["mean_absolute_jacobian"][row], expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.fixture
def unscaled(make_scene: Maker) -> Scene:
    """A scene of floats from −2 to 2, whose normalization is unknown."""
    scene = make_scene(channels=3)
    pixels = scene.test.floats() * 4 - 2
    images = ImageSet(pixels, scene.test.labels, scale=(-2.0, 2.0))
    return replace(scene, test=images, train=images)


def test_images_on_another_scale_are_drawn_on_it(unscaled: Scene, make_scene: Maker) -> None:
    displayed = make_scene(channels=3).test.floats()
    for name in ("saliency", "hardest", "explanations"):
        scene = replace(unscaled, methods=("gradient",))
        (artifact,) = HOOKS[name]().run(scene)
        indices = artifact.numbers["indices"]
        np.testing.assert_allclose(artifact.arrays["source"], displayed[indices].numpy(), atol=1e-6)
        assert artifact.figure is not None
        words = " ".join(" ".join(text.get_text() for text in artifact.figure.texts).split())
        assert "Pixels from -2 (black) to 2 (white)." in words
    (saliency,) = Saliency().run(unscaled)
    # the products are with the model's own inputs
    inputs = unscaled.test.floats(saliency.numbers["indices"]).numpy()
    np.testing.assert_allclose(saliency.arrays["overlay"], saliency.arrays["delta"] * inputs)


def test_methods_with_bounds_are_refused_on_another_scale(unscaled: Scene) -> None:
    scene = replace(unscaled, methods=("gradient", "lrp.z_box", "deep_taylor.bounded"))
    (artifact,) = Explanations().run(scene)
    assert set(artifact.numbers["refused"]) == {"lrp.z_box", "deep_taylor.bounded"}
    assert "normalization is unknown" in artifact.numbers["refused"]["lrp.z_box"]
    (hardest,) = Hardest().run(replace(unscaled, methods=("lrp.z_box",)))
    assert hardest.numbers["method"] == "gradient"


@pytest.mark.parametrize("name", ["prototypes", "prototypes.each_epoch"])
def test_prototypes_are_left_out_on_another_scale(unscaled: Scene, name: str) -> None:
    (artifact,) = HOOKS[name]().run(unscaled)
    assert artifact.name == "left_out"
    assert "normalization is unknown" in artifact.caption


@pytest.mark.parametrize("name", ["tsne", "projector"])
def test_models_without_an_embedding_are_reported(make_scene: Maker, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 9), nn.Flatten())
    (artifact,) = HOOKS[name]().run(make_scene(model=model))
    assert artifact.name == "left_out"
    assert "--embedding-layer" in artifact.numbers["reason"]


def test_every_caption_says_the_number_of_images(make_scene: Maker) -> None:
    scene = make_scene(methods=("gradient",))
    for name in ("saliency", "explanations", "hardest", "jacobian_maps", "jacobian_classes", "tsne", "projector"):
        (artifact,) = HOOKS[name]().run(scene)
        assert "test image" in artifact.caption, name
