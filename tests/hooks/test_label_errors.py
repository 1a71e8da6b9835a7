"""Hook `label_errors`: flipped training labels are listed, and what cannot be assessed is left out with a reason."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.hooks.conftest import logits_of, make_images, make_network
from torch import nn

import pellucid
from pellucid.core.budget import BUDGETS
from pellucid.core.contracts import ImageSet
from pellucid.hooks import Artifact, Scene
from pellucid.hooks._outputs import OutputReader
from pellucid.hooks.label_errors import LabelErrorsHook

Maker = Callable[..., Scene]


class Rows(nn.Module):
    """Recognizes the bar of `make_images` by the brightness of three rows, which are the embedding."""

    def __init__(self, rows: tuple[int, ...] = (2, 4, 6), sharpness: float = 20.0) -> None:
        super().__init__()
        self.rows, self.head = list(rows), nn.Linear(len(rows), 4)
        with torch.no_grad():
            self.head.weight.copy_(sharpness * torch.eye(4, len(rows)))
            self.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -sharpness]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images[:, :, self.rows].mean((1, 3)))
        return logits


@pytest.fixture
def flipped_scene(make_scene: Maker) -> tuple[Scene, list[int]]:
    """A network that recognizes every image, and training images of which four have wrong labels."""
    train = make_images(200, 1, (9, 9))
    wrong = [3, 50, 51, 120]
    labels = train.labels.clone()
    labels[wrong] = (labels[wrong] + 1) % 3
    return make_scene(model=Rows(), train=ImageSet(train.pixels, labels)), wrong


def test_flipped_labels_come_first(flipped_scene):
    scene, wrong = flipped_scene
    main, scores = LabelErrorsHook(listed=10).run(scene)
    numbers = main.numbers
    assert sorted(numbers["indices"][:4]) == wrong
    assert numbers["suspects"] == 4
    assert (numbers["images"], numbers["of"], numbers["not_finite"]) == (200, 200, 0)
    truth = make_images(200, 1, (9, 9)).labels
    assert numbers["suggested"][:4] == truth[numbers["indices"][:4]].tolist()
    assert numbers["labels"] == scene.train.labels[numbers["indices"]].tolist()
    assert sum(pair["count"] for pair in numbers["pairs"]) == pytest.approx(4, abs=0.3)
    assert all(share >= 0.8 for share in numbers["neighbors"][:4])
    assert main.arrays["thumbnails"].shape == (10, 9, 9, 1)
    np.testing.assert_array_equal(main.arrays["thumbnails"][0, ..., 0], scene.train.pixels[numbers["indices"][0], 0])
    assert scores.name == "scores"
    assert scores.arrays["scores"].shape == (200,)
    assert scores.arrays["scores"].argsort()[-4:].tolist() == numbers["indices"][:4][::-1]
    assert "memorized" in main.caption
    assert "About 4 of 200 training images" in main.caption


def test_scores_are_those_of_the_public_function(make_scene):
    scene = make_scene()
    main, scores = LabelErrorsHook().run(scene)
    probabilities = logits_of(scene.model, scene.train).double().softmax(1)
    errors = pellucid.label_errors(probabilities, scene.train.labels, embedding=scene.tap.read(scene.train.floats()))
    np.testing.assert_allclose(scores.arrays["scores"], errors.score.numpy(), rtol=1e-4, atol=1e-4)
    assert main.numbers["suspects"] == errors.suspects
    order = main.numbers["indices"]
    assert main.numbers["self_influence"] == pytest.approx(errors.evidence["self_influence"][order].tolist(), rel=1e-4)
    own = probabilities[order].gather(1, scene.train.labels[order, None])[:, 0]
    assert main.numbers["label_probabilities"] == pytest.approx(own.tolist(), rel=1e-4)


def test_large_embeddings_are_projected_in_parts(make_scene, monkeypatch):
    scene = make_scene(model=nn.Sequential(nn.Flatten(), nn.Linear(81, 4)))
    (_, whole) = LabelErrorsHook().run(scene)
    monkeypatch.setattr("pellucid.hooks._outputs.IMAGES_AT_ONCE", 7)
    (_, parts) = LabelErrorsHook().run(scene)
    np.testing.assert_allclose(parts.arrays["scores"], whole.arrays["scores"], rtol=1e-4, atol=1e-5)
    errors = pellucid.label_errors(
        logits_of(scene.model, scene.train).double().softmax(1),
        scene.train.labels,
        embedding=scene.train.floats().flatten(1),
    )
    np.testing.assert_allclose(whole.arrays["scores"], errors.score.numpy(), rtol=1e-4, atol=1e-4)


def reason(artifacts: list[Artifact]) -> str:
    (artifact,) = artifacts
    assert artifact.name == "left_out"
    return artifact.numbers["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": None}, "no training images"),
        ({"train": make_images(1, 1, (9, 9))}, "only one training image"),
        ({"train": ImageSet(make_images(5, 1, (9, 9)).pixels, torch.tensor([0, 1, 2, 3, 9]))}, "range from 0 to 9"),
        ({"chosen_classes": (3,), "model": Rows()}, "selected classes"),
    ],
    ids=["none", "one", "labels", "classes"],
)
def test_left_out_with_a_reason(changes, message, make_scene):
    assert message in reason(list(LabelErrorsHook().run(make_scene(**changes))))


class Diverged(nn.Module):
    """Returns NaN for the first image of each batch, or for all."""

    def __init__(self, every: bool) -> None:
        super().__init__()
        self.inside, self.every = make_network(1, (9, 9)), every

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inside(images)
        is_bad = images.mean((1, 2, 3)) > images.mean((1, 2, 3)).median()
        return torch.where(is_bad[:, None] | self.every, torch.nan, logits)


def test_images_without_finite_logits_are_left_out_and_counted(make_scene):
    scene = make_scene(model=Diverged(every=False))
    main, scores = LabelErrorsHook().run(scene)
    assert main.numbers["not_finite"] == 60 - main.numbers["images"] > 0
    assert np.isfinite(scores.arrays["scores"]).all()
    assert "without finite logits are left out" in main.caption
    scene = make_scene(model=Diverged(every=True))
    assert "not finite" in reason(list(LabelErrorsHook().run(scene)))


class Without(nn.Module):
    """A network without a linear layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 3))[:, :4] * 3


def test_model_without_embedding(make_scene):
    main, _ = LabelErrorsHook().run(replace(make_scene(), model=Without()))
    numbers = main.numbers
    assert (numbers["neighbors"], numbers["self_influence"]) == (None, None)
    assert "no linear layer" in numbers["no_embedding"]
    assert not any("neighbors " in text.get_text() and "%" in text.get_text() for text in main.figure.texts[4:])


def test_chosen_classes_restrict_the_list(flipped_scene):
    scene, _ = flipped_scene
    main, scores = LabelErrorsHook(listed=200).run(replace(scene, chosen_classes=(1,)))
    pairs = zip(main.numbers["labels"], main.numbers["suggested"], strict=True)
    assert all(1 in pair for pair in pairs)
    assert len(scores.arrays["scores"]) == 200


def test_a_budget_limits_the_images(make_scene):
    scene = make_scene(train=make_images(200, 1, (9, 9)))
    main, scores = LabelErrorsHook().run(replace(scene, budget=BUDGETS["small"]))
    count = main.numbers["images"]
    assert 2 <= count < 60
    assert scores.arrays["indices"].tolist() == [row * 200 // count for row in range(count)]
    assert f"{count} of 200 training images" in main.caption
    few = replace(BUDGETS["small"], images=4)
    assert "budget" in reason(list(LabelErrorsHook().run(replace(scene, budget=few))))


def test_images_on_another_scale_and_binary_labels(make_scene):
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 2
    pixels = torch.randn(30, 3, 9, 9, generator=draws) + labels[:, None, None, None]
    train = ImageSet(pixels, labels, scale=(-3.0, 4.0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 2))
    scene = make_scene(channels=3, model=model, test=train, train=train, classes=("no", "yes"))
    main, _ = LabelErrorsHook().run(replace(scene, logits=logits_of(model, train)))
    assert main.numbers["suggested"] == [1 - label for label in main.numbers["labels"]]
    assert main.arrays["thumbnails"].shape == (30, 9, 9, 3)
    assert "Pixels from -3 (black) to 4 (white)" in "".join(text.get_text() + " " for text in main.figure.texts)


def test_paths_of_layers_are_those_of_the_model(make_scene):
    scene = make_scene(embedding_layer="5")
    assert OutputReader.of(scene).features == 6 * 81
    # an unknown layer is reported like everywhere else
    with pytest.raises(pellucid.errors.UnknownName, match="layer"):
        OutputReader.of(replace(scene, embedding_layer="unknown"))
