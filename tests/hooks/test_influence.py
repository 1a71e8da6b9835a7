"""Influential training images of the gallery's images, compared with TRAK itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.hooks.conftest import make_images
from torch import nn

from pellucid.core.contracts import Artifact
from pellucid.diagnostics import Projection, trak
from pellucid.hooks import Scene, influence
from pellucid.hooks.influence import InfluentialImages

Maker = Callable[..., Scene]


def only(scene: Scene, **options: int) -> Artifact:
    (artifact,) = InfluentialImages(**options).run(scene)
    return artifact


def test_scores_are_those_of_trak(make_scene: Maker) -> None:
    scene = replace(make_scene(), train=make_images(90, 1, (9, 9)))
    artifact = only(scene, count=3)
    indices = artifact.numbers["indices"]
    assert len(indices) == len(set(indices)) <= len(scene.test)
    result = trak(
        scene.model, [scene.model.state_dict()], scene.train.pixels, scene.train.labels, scene.test.pixels[indices],
        scene.logits[indices].argmax(1), projection=Projection(1024),
    )  # fmt: skip
    for name, sign in (("proponents", 1), ("opponents", -1)):
        ranked = getattr(result, name)(3)
        has_sign = ranked.scores * sign > 0
        np.testing.assert_array_equal(artifact.arrays[name], ranked.indices.where(has_sign, -1).numpy())
        torch.testing.assert_close(
            torch.from_numpy(artifact.arrays[f"{name}_scores"]), ranked.scores.where(has_sign, 0.0)
        )
    shown = artifact.arrays["shown"]
    assert artifact.numbers["shown_labels"] == scene.train.labels[shown].tolist()
    np.testing.assert_array_equal(artifact.arrays["thumbnails"][:, :, :, 0], scene.train.pixels[shown, 0].numpy())
    assert (artifact.numbers["scored"], artifact.numbers["training_images"]) == (90, 90)
    assert "all 90 training images" in artifact.caption
    assert artifact.figure is not None


def test_a_stratified_sample_is_scored_where_all_take_too_long(
    make_scene: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    monkeypatch.setattr(influence, "PIXEL_VALUES", 20 * 81)
    artifact = only(scene)
    assert artifact.numbers["scored"] == 20
    assert "a sample of 20 of 60 images" in artifact.caption
    used = np.unique(np.concatenate([artifact.arrays[name].ravel() for name in ("proponents", "opponents")]))
    assert len(used[used >= 0]) <= 20
    assert (used < 60).all()


def test_only_the_last_layers_of_a_large_network_are_used(make_scene: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "MOST_PARAMETERS", 100)
    artifact = only(make_scene())
    # the last weight matrix with its bias, and the bias before
    assert artifact.numbers["parameters"] == 16 * 4 + 4 + 16
    assert "the last 84 parameters" in artifact.caption
    assert artifact.numbers["projection_error"] == 0


def test_missing_training_images_are_stated(make_scene: Maker) -> None:
    artifact = only(make_scene(train=None))
    assert artifact.name == "left_out"
    assert "training images" in artifact.caption


def test_logits_that_are_not_finite_are_stated(make_scene: Maker) -> None:
    scene = make_scene()
    with torch.no_grad():
        scene.model[7].bias[0] = torch.nan
    artifact = only(scene)
    assert artifact.name == "left_out"
    assert "not finite" in artifact.caption


def test_two_classes(make_scene: Maker) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 2))
    test = make_images(30, 1, (9, 9), classes=2)
    logits = model(test.floats()).detach()
    scene = make_scene(model=model, classes=("a", "b"), test=test, train=test, logits=logits)
    artifact = only(scene)
    assert artifact.arrays["proponents"].shape == (len(artifact.numbers["indices"]), 5)
