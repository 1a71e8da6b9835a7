"""Misclassified test images for the top of the page."""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pellucid.report._material import Material

__all__ = ["Mistake", "mistakes"]

SHOWN = 4


@dataclass(frozen=True)
class Mistake:
    """A misclassified test image, with its thumbnail as a `data:` URI."""

    index: int
    label: str
    prediction: str
    confidence: str
    uri: str


def mistakes(material: Material) -> list[Mistake]:
    """Return the misclassified test images with the highest confidence at the best epoch, each from another cell.

    Without images of that epoch, they are those of the last one.
    If fewer cells of the confusion matrix have errors, some cells are shown twice.
    """
    epochs = material.entries("confusion_matrix", "arrays", "images")
    # the epoch that the verdict and the explanations are about
    chosen = material.best_epoch if material.best_epoch in epochs else max(epochs, default=None)
    images = material.pairs("confusion_matrix", lambda *parts: _most_confident(material.classes, *parts), "images")
    return images.get(chosen, []) if chosen is not None else []


def _most_confident(classes: list[str], arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> list[Mistake]:
    labels, predictions = (np.array(numbers[name], int) for name in ("labels", "predictions"))
    confidences = np.nan_to_num(np.array(numbers["confidences"], float), nan=-1.0)
    wrong = [int(number) for number in np.argsort(-confidences, kind="stable") if labels[number] != predictions[number]]
    # the first of each cell, then the others
    firsts = {(labels[number], predictions[number]): number for number in reversed(wrong)}.values()
    chosen = sorted(list(dict.fromkeys([*sorted(firsts, key=wrong.index), *wrong]))[:SHOWN], key=wrong.index)
    names = dict(enumerate(classes))
    return [
        Mistake(
            int(numbers["indices"][number]),
            names.get(int(labels[number]), str(labels[number])),
            names.get(int(predictions[number]), str(predictions[number])),
            "" if confidences[number] < 0 else f"{confidences[number]:.1%}",
            _uri(arrays["thumbnails"][number]),
        )
        for number in chosen
    ]


def _uri(thumbnail: np.ndarray) -> str:
    packed = io.BytesIO()
    Image.fromarray(thumbnail[..., 0] if thumbnail.shape[2] == 1 else thumbnail).save(packed, "PNG")
    return f"data:image/png;base64,{b64encode(packed.getvalue()).decode()}"
