"""Training dynamics of recordings with known values."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.core.contracts import ImageSet
from pellucid.hooks import Scene
from pellucid.hooks._hook import missing_recording
from pellucid.hooks.dynamics import Dynamics
from pellucid.storage.recordings import Recorded, write_recording
from pellucid.storage.store import Store
from pellucid.training.recording import Recording

Maker = Callable[..., Scene]
STEPS = 8


def record(
    folder: Path, labels: torch.Tensor, predict: Callable[[int, int], float], classes: int, epochs: int = 2
) -> Recorded:
    """Record all images in all steps; `predict` gives the probability of the label of an image at a time."""
    count = len(labels)
    for epoch in range(1, epochs + 1):
        times = [(epoch - 1) * STEPS + step for step in range(1, STEPS + 1)]
        values = torch.tensor([[predict(image, time) for image in range(count)] for time in times])
        predictions = labels.where(values > 0.5, (labels + 1) % classes).int()
        one = Recording(
            epoch,
            STEPS,
            values[-1].half(),
            predictions[-1],
            torch.arange(count, dtype=torch.int32),
            torch.arange(1, STEPS + 1, dtype=torch.int32),
            values.half(),
            predictions,
            None,
        )
        write_recording(Store(folder), one, labels)
    return Recorded(Store(folder))


def curve(image: int, time: int) -> float:
    """Image 0 is hard, image 1 alternates, and all others are learned at a time that depends on them."""
    if image == 0:
        return 0.05
    if image == 1:
        return 0.95 if time % 2 else 0.05
    return 0.98 if time >= 1 + image % 5 else 0.3


@pytest.fixture
def scene(make_scene: Maker, tmp_path: Path) -> Scene:
    scene = make_scene()
    assert scene.train is not None
    return replace(scene, recorded=record(tmp_path, scene.train.labels, curve, 4))


def by_name(scene: Scene, **options: Any) -> dict[str, Any]:
    return {artifact.name: artifact for artifact in Dynamics(**options).run(scene)}


def test_values_of_each_image(scene: Scene) -> None:
    artifact = by_name(scene)[""]
    values = np.array([[curve(image, time) for time in range(1, 17)] for image in range(60)])
    np.testing.assert_allclose(artifact.arrays["confidence"], values.mean(1), atol=1e-3)
    np.testing.assert_allclose(artifact.arrays["variability"], values.std(1), atol=1e-3)
    np.testing.assert_allclose(artifact.arrays["correctness"], (values > 0.5).mean(1), atol=1e-6)
    assert artifact.arrays["forgetting_events"].tolist() == [0, 8, *[0] * 58]
    assert artifact.arrays["first_learned"].tolist() == [-1, 0, *(image % 5 for image in range(2, 60))]
    assert artifact.arrays["indices"].tolist() == list(range(60))
    assert artifact.arrays["moments"].tolist() == [number / 8 for number in range(1, 17)]
    numbers = artifact.numbers
    assert (numbers["images"], numbers["never_learned"], numbers["forgotten"]) == (60, 1, 1)
    assert numbers["unforgettable"] == 58
    assert numbers["forgetting_events"] == {"0": 58, "1": 0, "2": 0, "3": 0, "4": 0, "≥5": 1, "never learned": 1}
    assert "Bars, training dynamics over 2 epochs" in artifact.caption
    assert "60 of 60 training images, predicted 16 times during training" in artifact.caption


def test_corners_and_their_thumbnails(scene: Scene) -> None:
    artifacts = by_name(scene, images=4)
    corners = artifacts[""].numbers["corners"]
    assert corners["hard"]["indices"][0] == 0
    assert corners["ambiguous"]["indices"][0] == 1
    assert all(index % 5 == 0 for index in corners["easy"]["indices"])
    assert scene.train is not None
    labels = scene.train.labels.tolist()
    for name, corner in corners.items():
        assert corner["labels"] == [labels[index] for index in corner["indices"]]
        tiles = artifacts["images"].arrays[name]
        expected = scene.train.pixels[corner["indices"]].permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(tiles, expected)
    # image 0 is always predicted as the next class
    assert corners["hard"]["predictions"][0] == (labels[0] + 1) % 4


def test_learning_of_each_class(scene: Scene) -> None:
    artifact = by_name(scene, threshold=0.7)["classes"]
    assert scene.train is not None
    labels = scene.train.labels
    for label in range(4):
        own = [image for image in range(60) if labels[image] == label]
        accuracy = [np.mean([curve(image, time) > 0.5 for image in own]) if own else np.nan for time in range(1, 17)]
        np.testing.assert_allclose(artifact.arrays["accuracy"][:, label], accuracy, atol=1e-6)
        first = next((t for t in range(16) if all(one >= 0.7 for one in accuracy[t:])), None)
        assert artifact.numbers["learned"][label] == (None if first is None else (first + 1) / 8)
    assert artifact.numbers["images"][3] == 0
    assert artifact.numbers["learned"][3] is None


def test_all_training_images_from_their_steps(scene: Scene) -> None:
    artifact = by_name(scene)["training"]
    expected = [np.mean([curve(image, 8), curve(image, 16)]) for image in range(60)]
    np.testing.assert_allclose(artifact.arrays["confidence"], expected, atol=1e-3)
    assert artifact.arrays["observations"].tolist() == [2] * 60


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_everything_wrong_or_right(value: float, make_scene: Maker, tmp_path: Path) -> None:
    scene = make_scene(channels=3, size=(40, 30))
    assert scene.train is not None
    recorded = record(tmp_path, scene.train.labels, lambda *_: value, 4)
    artifacts = by_name(replace(scene, recorded=recorded))
    assert artifacts[""].numbers["never_learned"] == (60 if value == 0 else 0)
    assert artifacts[""].figure is not None
    assert artifacts["images"].arrays["hard"].shape == (6, 28, 28, 3)


@pytest.mark.parametrize("classes", [2, 60])
def test_number_of_classes(classes: int, make_scene: Maker, tmp_path: Path) -> None:
    labels = torch.arange(80) % classes
    images = ImageSet(torch.zeros(80, 1, 8, 8, dtype=torch.uint8), labels)
    recorded = record(tmp_path, labels, lambda image, time: 0.9 if time > image % classes % 16 else 0.2, classes)
    names = tuple(f"a class of a long name {number}" for number in range(classes))
    scene = replace(make_scene(), train=images, classes=names, recorded=recorded)
    artifact = by_name(scene)["classes"]
    assert artifact.figure is not None
    rows = [label.get_text() for label in artifact.figure.axes[1].get_yticklabels()]
    assert len(rows) == min(classes, 12)
    assert ("Shows 12 of 60 classes, those learned last." in artifact.caption) == (classes == 60)
    chosen = by_name(replace(scene, chosen_classes=(1,)))["classes"]
    assert chosen.figure is not None
    assert len(chosen.figure.axes[1].get_yticklabels()) == 1


def test_images_without_predictions(make_scene: Maker, tmp_path: Path) -> None:
    """Predictions that are not finite are recorded as absent."""
    scene = make_scene()
    assert scene.train is not None
    recorded = record(tmp_path, scene.train.labels, curve, 4)
    for name in ("epoch_001.npz", "epoch_002.npz"):
        path = tmp_path / "recordings" / name
        with np.load(path) as arrays:
            content = {key: arrays[key] for key in arrays.files}
        content["sample_probabilities"][:, 0] = np.nan
        content["sample_predictions"][:, 0] = -1
        np.savez(path, **content)
    artifact = by_name(replace(scene, recorded=recorded))[""]
    assert artifact.numbers["images"] == 59
    assert artifact.arrays["observations"][0] == 0
    assert 0 not in artifact.numbers["corners"]["hard"]["indices"]


@pytest.mark.parametrize("is_absent", [True, False])
def test_nothing_to_show(is_absent: bool, make_scene: Maker, tmp_path: Path) -> None:
    """No prediction at all, or a selected class without images."""
    scene = make_scene(chosen_classes=(3,))
    assert scene.train is not None
    recorded = record(tmp_path, scene.train.labels, curve, 4)
    if is_absent:
        for path in (tmp_path / "recordings").iterdir():
            with np.load(path) as arrays:
                content = {key: arrays[key] for key in arrays.files}
            content["sample_probabilities"][:], content["sample_predictions"][:] = np.nan, -1
            np.savez(path, **content)
    for artifact in Dynamics().run(replace(scene, recorded=recorded)):
        json.dumps(artifact.numbers, allow_nan=False)
        if artifact.figure is not None:
            artifact.figure.savefig(io.BytesIO(), format="png")


def reason(scene: Scene) -> str:
    (artifact,) = Dynamics().run(scene)
    assert artifact.figure is None
    assert artifact.name == "left_out"
    return str(artifact.numbers["reason"])


def test_missing_recordings_are_a_reason(scene: Scene, tmp_path: Path) -> None:
    assert missing_recording(scene) is None
    assert reason(replace(scene, recorded=None)) == "only `pellucid run` records predictions on training images"
    assert "not recorded in epoch 3;" in reason(replace(scene, epoch=3))
    other = ImageSet(scene.test.pixels, 1 - scene.test.labels.clamp(max=1))
    assert reason(replace(scene, train=other)) == "the recordings belong to other training images"
    path = tmp_path / "recordings/epoch_001.npz"
    path.write_bytes(path.read_bytes()[:-200])
    assert "epoch_001.npz cannot be used: damaged" in reason(replace(scene, recorded=Recorded(Store(tmp_path))))
