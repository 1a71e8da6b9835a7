from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pellucid
from pellucid.core.errors import DataError
from pellucid.densities import held_out
from pellucid.hooks import HOOKS, Scene
from pellucid.hooks.prototypes import ClassPrototypes
from pellucid.synthesis import objective
from pellucid.synthesis.expert import Expert

Maker = Callable[..., Scene]


def test_hook_runs_at_the_end_and_each_epoch_variant_is_opt_in() -> None:
    assert (HOOKS["prototypes"].when, HOOKS["prototypes"].default) == ("end", True)
    assert (HOOKS["prototypes.each_epoch"].when, HOOKS["prototypes.each_epoch"].default) == ("epoch", False)


def test_numbers_match_the_images(make_scene: Maker) -> None:
    scene = make_scene(count=80)
    assert scene.train is not None
    fitted = {name: pellucid.fit_density(name, scene.train) for name in ("gaussian_mixture", "vae")}
    scene = make_scene(count=80, model=scene.model, fitted=fitted.__getitem__)
    (artifact,) = ClassPrototypes().run(scene)
    numbers, images = artifact.numbers, torch.from_numpy(artifact.arrays["images"])
    assert numbers["classes"] == [0, 1, 2, 3]
    assert list(numbers["ways"]) == ["l2", "expert", "code"]
    means = [scene.train.floats()[scene.train.labels == label].mean(0) for label in range(3)]
    np.testing.assert_allclose(artifact.arrays["class_means"][:3], torch.stack(means).numpy(), rtol=1e-5)
    model = scene.model.eval()
    for way, row in zip(images, numbers["ways"].values(), strict=True):
        with torch.no_grad():
            expected = model(way).log_softmax(1).diagonal()
        np.testing.assert_allclose(row["log_probability"], expected.numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(row["probability"], expected.exp().numpy(), rtol=1e-3)
        for label in range(3):
            cosine = F.cosine_similarity(scene.train.floats().flatten(1), way[label].flatten()[None])
            nearest = 1 - cosine[scene.train.labels == label].max().item()
            assert row["cosine_distance_to_nearest"][label] == pytest.approx(nearest, abs=1e-5)
            to_mean = 1 - F.cosine_similarity(way[label].flatten(), means[label].flatten(), dim=0).item()
            assert row["cosine_distance_to_class_mean"][label] == pytest.approx(to_mean, abs=1e-5)
        assert row["cosine_distance_to_nearest"][3] is None  # the last class has no images
        assert row["objective_of_class_mean"][3] is None
    expert = Expert(density=fitted["gaussian_mixture"])
    of_means = objective(model, torch.stack(means), [0, 1, 2], expert).diagonal()
    assert (np.array(numbers["ways"]["expert"]["objective_of_class_mean"][:3]) >= of_means.numpy() - 1e-5).all()
    likelihood = numbers["densities"]["vae"]
    assert likelihood["held_out_nats_per_image"] == pytest.approx(held_out(fitted["vae"], scene.test.pixels).nats)
    assert set(numbers["densities"]) == {"gaussian_mixture", "vae"}


def test_large_images_keep_the_prior_without_density(make_scene: Maker) -> None:
    (artifact,) = ClassPrototypes().run(make_scene(count=20, size=(90, 140), chosen_classes=(1,)))
    assert list(artifact.numbers["ways"]) == ["l2"]
    assert set(artifact.numbers["refused"]) == {"expert", "code"}
    assert artifact.figure is not None
    assert "Not applicable: expert, code" in " ".join(text.get_text() for text in artifact.figure.texts)


def test_missing_training_images_are_reported(make_scene: Maker) -> None:
    (artifact,) = ClassPrototypes().run(make_scene(train=None))
    assert artifact.name == "left_out"
    assert "none were given" in artifact.numbers["reason"]
    with pytest.raises(DataError, match="the density 'vae' needs training images"):
        make_scene(train=None).density("vae")
