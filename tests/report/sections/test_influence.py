"""Influential training images in the section `explain`: their data, and how damaged files are treated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.sections.test_explain import gallery, keep, made

from pellucid.core.contracts import Artifact
from pellucid.storage.store import Store


def influence() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and numbers like those of the hook, for two images of the gallery and another one."""
    arrays = {
        "proponents": np.array([[40, 9], [9, -1], [3, 40]]),
        "proponents_scores": np.array([[0.25, 0.125], [0.5, 0.0], [0.3, 0.2]], np.float32),
        "opponents": np.array([[3, -1], [-1, -1], [9, 3]]),
        "opponents_scores": np.array([[-0.5, 0.0], [0.0, 0.0], [-0.3, -0.2]], np.float32),
        "shown": np.array([3, 9, 40]),
        "thumbnails": np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1),
    }
    numbers = {
        "indices": [7, 11, 99],
        "predictions": [0, 2, 1],
        "confidences": [0.95, 0.5, 0.5],
        "shown_labels": [2, 1, 0],
        "scored": 50,
        "training_images": 60,
        "projection_error": 0.0625,
    }
    return arrays, numbers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(tmp_path, *gallery())
    return tmp_path


def add(folder: Path, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
    store = Store(folder)
    store.keep(store.pack("influence", 2, Artifact("images", arrays=arrays, numbers=numbers), None))


def test_images_of_the_gallery_have_their_training_images(folder: Path) -> None:
    add(folder, *influence())
    section, material = made(folder)
    data = section.data["influence"]
    assert set(data["images"]) == {7, 11}
    assert data["images"][7]["for"] == [(2, 0.25), (1, 0.125)]
    assert data["images"][7]["against"] == [(0, -0.5)]
    assert (data["images"][11]["against"], data["images"][11]["target"]) == ([], 2)
    assert (data["thumbnails"]["indices"], data["labels"]) == ([3, 9, 40], [2, 1, 0])
    assert "a sample of 50 of 60 images, with a projection of standard error 6%" in data["note"]
    assert section.hook == ("gallery", "influence")
    assert material.damages == []


def test_results_of_another_network_are_not_shown(folder: Path) -> None:
    arrays, numbers = influence()
    add(folder, arrays, {**numbers, "predictions": [1, 2, 1], "confidences": [0.95, 0.6, 0.5]})
    section, _ = made(folder)
    assert section.data["influence"] is None
    assert section.hook == "gallery"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thumbnails", np.zeros((2, 4, 4, 1), np.uint8)),
        ("proponents", np.zeros((3, 3), int)),
        ("opponents", np.full((3, 2), 77)),
        ("opponents_scores", np.full((3, 2), np.nan)),
    ],
)
def test_damaged_files_are_noted(folder: Path, name: str, value: np.ndarray) -> None:
    arrays, numbers = influence()
    add(folder, {**arrays, name: value}, numbers)
    section, material = made(folder)
    assert section.data["influence"] is None
    assert "plots/influence" in material.damages[0]


def test_without_the_hook_nothing_is_shown(folder: Path) -> None:
    section, material = made(folder)
    assert section.data["influence"] is None
    assert material.damages == []
