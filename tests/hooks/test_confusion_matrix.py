from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from pellucid.core.contracts import ImageSet
from pellucid.hooks import Scene
from pellucid.hooks import confusion_matrix as module
from pellucid.hooks.confusion_matrix import ConfusionMatrix


def test_counts_match_a_hand_computed_table(make_scene: Callable[..., Scene]) -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 2])
    prediction = torch.tensor([0, 0, 1, 1, 1, 0])
    scene = replace(
        make_scene(),
        test=ImageSet(torch.zeros(6, 1, 9, 9, dtype=torch.uint8), truth),
        logits=one_hot(prediction, 4).float(),
    )
    artifact, *_ = ConfusionMatrix().run(scene)
    assert artifact.numbers["counts"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert artifact.numbers["recall"] == [2 / 3, 1.0, 0.0, None]
    assert artifact.numbers["precision"] == [2 / 3, 2 / 3, None, None]
    assert artifact.numbers["accuracy"] == 4 / 6
    assert artifact.numbers["classes"] == list(scene.classes)
    assert artifact.figure is not None
    headline = " ".join(text.get_text() for text in artifact.figure.texts[:3])
    assert "Bars, epoch 2" in headline
    assert "accuracy 66.67%" in headline


def test_examples_are_the_first_of_each_cell_with_errors_first(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    _, images, _ = ConfusionMatrix().run(scene)
    labels, predictions = scene.test.labels.tolist(), scene.logits.argmax(1).tolist()
    cells: dict[tuple[int, int], list[int]] = {}
    for index, cell in enumerate(zip(labels, predictions, strict=True)):
        cells.setdefault(cell, []).append(index)
    order = sorted(cells, key=lambda cell: (cell[0] == cell[1], cell))
    expected = [index for cell in order for index in cells[cell][:8]]
    numbers = images.numbers
    assert images.name == "images"
    assert numbers["indices"] == expected
    assert numbers["labels"] == [labels[index] for index in expected]
    assert numbers["predictions"] == [predictions[index] for index in expected]
    probabilities = scene.logits[expected].softmax(1).max(1).values
    np.testing.assert_allclose(numbers["confidences"], probabilities, atol=1e-6)
    pixels = scene.test.pixels[expected].permute(0, 2, 3, 1)
    np.testing.assert_array_equal(images.arrays["thumbnails"], pixels)
    monkeypatch.setattr(module, "AT_MOST", len(cells) + 2)
    _, few, _ = ConfusionMatrix().run(scene)
    kept = set(zip(few.numbers["labels"], few.numbers["predictions"], strict=True))
    assert len(few.numbers["indices"]) == len(cells) + 2
    assert {cell for cell in cells if cell[0] != cell[1]} <= kept


def test_predictions_of_all_test_images_are_stored(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    *_, stored = ConfusionMatrix().run(scene)
    shares = torch.softmax(scene.logits.double(), 1).numpy()
    labels = scene.test.labels.numpy()
    assert stored.name == "predictions"
    np.testing.assert_array_equal(stored.arrays["labels"], labels)
    np.testing.assert_array_equal(stored.arrays["predictions"], shares.argmax(1))
    np.testing.assert_allclose(stored.arrays["confidences"], shares.max(1), rtol=1e-5)
    np.testing.assert_allclose(stored.arrays["losses"], -np.log(shares[np.arange(len(labels)), labels]), rtol=1e-4)
