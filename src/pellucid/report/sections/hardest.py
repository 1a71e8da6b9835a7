"""Hardest test images: those with the largest loss, each with an explanation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from pellucid.plots.colours import gray_or_rgb, scale_limit
from pellucid.report import Material, Section
from pellucid.report._gallery import Gallery, galleries
from pellucid.report._recommended import recommended_method
from pellucid.report.sections.explain import packed

__all__ = ["hardest"]

MOST_SIDE = 96
"""Maximum side of the images in pixels; larger ones are downsampled."""
LISTS = ("indices", "labels", "predictions", "confidences", "true_probabilities", "losses")
SAME = 1e-5
"""Largest difference between two stored confidences of the same network for the same image."""


def hardest(material: Material) -> Section | None:
    """Build the section with one card per image for each epoch.

    Where the gallery has maps of the same images by the same network, the cards show those of the recommended method.
    """
    method = recommended_method(material)
    parts = [] if method is None else galleries(material)
    cards = material.pairs("hardest", partial(_cards, material.classes, parts, method))
    if not cards:
        return None
    notes = []
    if any(one["is_shrunk"] for one in cards.values()):
        notes.append(f"Images and maps are downsampled to {MOST_SIDE} pixels.")
    if chosen := cards[max(cards)]["chosen"]:
        notes.append(f"Restricted to {', '.join(chosen)} by --classes.")
    return Section(
        name="hardest",
        kind="hardest",
        title="Hardest test images",
        lead=(
            "Test images with the largest loss, each with its predicted class, confidence and explanation. Red is "
            "evidence for the predicted class, blue against it; each map has its own color scale."
        ),
        data={"cards": cards, "classes": material.classes},
        guide="methods_overview",
        notes=tuple(notes),
    )


def _cards(
    classes: Sequence[str],
    parts: Sequence[Gallery],
    recommended: str | None,
    arrays: Mapping[str, np.ndarray],
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the bytes of the images and of the maps of all cards, and lists with one value per card."""
    # the relevance of a network that has diverged can be NaN
    source, relevance = (np.nan_to_num(arrays[name].astype(np.float64)) for name in ("source", "relevance"))
    if source.ndim != 4 or relevance.ndim != 4 or len(source) != len(relevance) or not source.size:
        raise ValueError(f"source has shape {source.shape} and relevance has shape {relevance.shape}")
    lists, names = {name: np.array(numbers[name], dtype=float) for name in LISTS}, dict(enumerate(classes))
    limits = np.array(numbers["scale_limits"], dtype=float)
    if any(values.shape != source.shape[:1] for values in (*lists.values(), limits)):
        raise ValueError("the number of values differs from the number of images")
    maps, method = relevance.sum(1), str(numbers.get("method", ""))
    stored = None if recommended in (None, method) else _stored_maps(parts, str(recommended), lists)
    if stored is not None:
        maps, limits = stored, np.array([scale_limit(one) for one in stored])
    pixels = (gray_or_rgb(source).clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    # a scale of 0 marks a map of zeros
    steps = maps / np.where(limits > 0, limits, 1)[:, None, None] * 127
    images, steps = _shrunk(pixels), _shrunk(steps[..., None])[..., 0]
    return {
        "size": images.shape[1:3],
        "channels": images.shape[3],
        "images": packed(images),
        "map_size": steps.shape[1:],
        "maps": packed(np.rint(steps.clip(-127, 127)).astype(np.int8)),
        "method": method if stored is None else recommended,
        "recommended": stored is not None or (recommended is not None and recommended == method),
        "refused": [str(name) for name in numbers.get("refused") or ()],
        "chosen": [names.get(label, str(label)) for label in numbers.get("chosen_classes") or ()],
        "is_shrunk": max(pixels.shape[1:3]) > MOST_SIDE,
        "limits": limits,
        **lists,
    }


def _stored_maps(parts: Sequence[Gallery], method: str, lists: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the maps of all cards' predicted classes by `method`; None unless the gallery has all, of this network.

    The same predictions with the same confidences mean the same weights.
    """
    places = {index: (part, row) for part in parts for row, index in enumerate(part.columns["indices"])}
    maps = []
    for index, prediction, confidence in zip(lists["indices"], lists["predictions"], lists["confidences"], strict=True):
        part, row = places.get(int(index), (None, 0))
        if part is None or method not in part.methods or part.columns["predictions"][row] != prediction:
            return None
        known, columns = part.tables["confidences"], np.flatnonzero(part.classes[row] == prediction)
        # `not` with `<=`, so that NaN counts as different
        if known is None or not len(columns) or not abs(float(known[row]) - confidence) <= SAME:
            return None
        number, column = part.methods.index(method), columns[0]
        maps.append(part.maps[number, row, column] / 127 * part.scales[number, row, column])
    return np.stack(maps)


def _shrunk(pictures: np.ndarray) -> np.ndarray:
    """Downsample pictures (image, height, width, channel) whose longer side exceeds `MOST_SIDE`, by averaging areas."""
    height, width = pictures.shape[1:3]
    share = min(1.0, MOST_SIDE / max(height, width))
    if share == 1.0:
        return pictures
    size = max(1, round(width * share)), max(1, round(height * share))
    small = [
        [np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX)) for plane in planes]
        for planes in pictures.transpose(0, 3, 1, 2)
    ]
    result = np.array(small).transpose(0, 2, 3, 1)
    return result if pictures.dtype != np.uint8 else np.rint(result).astype(np.uint8)
