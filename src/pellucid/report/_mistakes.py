"""Misclassified test images for the top of the page."""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pellucid.report._material import Material
from pellucid.report._verdict import shown_epoch

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
    """Return the misclassified test images with the highest confidence, each from another cell of the confusion matrix.

    If fewer cells have errors, some cells are shown twice. The images are those of the epoch of the results, which the
    verdict and the explanations are about, or of the last one if the run stored none for it.
    """
    stored, epoch = material.entries("confusion_matrix", "arrays", "images"), shown_epoch(material)
    chosen = epoch if epoch in stored else max(stored, default=None)
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
