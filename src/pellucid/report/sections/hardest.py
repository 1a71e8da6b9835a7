"""The test images with the largest loss, each with its explanation."""

from typing import Any

import numpy as np
from PIL import Image

from pellucid.plots.colours import signed_palette
from pellucid.report._material import Entry, Material
from pellucid.report._pictures import sprite
from pellucid.report._section import Section

__all__ = ["hardest"]

MOST_SIDE = 96
"""Larger images are shrunk to this side."""
LISTS = ("indices", "labels", "predictions", "confidences", "true_probabilities", "losses")


def hardest(material: Material) -> Section | None:
    """A card for each image, epoch by epoch."""
    numbers = material.entries("hardest", "data")
    arrays = material.entries("hardest", "arrays")
    cards = material.by_epoch(
        {epoch: entry for epoch, entry in arrays.items() if epoch in numbers},
        lambda entry: _cards(material, entry, numbers[int(entry["epoch"])]),
    )
    if not cards:
        return None
    notes = (
        [f"Images and maps are shrunk to {MOST_SIDE} pixels."] if any(c["is_shrunk"] for c in cards.values()) else []
    )
    if chosen := cards[max(cards)]["chosen"]:
        notes.append(f"Of {', '.join(chosen)} alone, as chosen by --classes.")
    return Section(
        name="hardest",
        kind="hardest",
        title="The hardest test images",
        lead=(
            "The test images with the largest loss, and why the network decided as it did: red speaks for its "
            "prediction, blue against it, each map on its own scale around zero."
        ),
        data={"cards": cards, "classes": material.classes},
        guide="methods_overview",
        notes=tuple(notes),
    )


def _cards(material: Material, entry: Entry, beside: Entry) -> dict[str, Any] | None:
    """Two pictures with an image and a map for each card, and lists with a number for each."""
    arrays, numbers = material.arrays(entry), material.numbers(beside)
    if arrays is None or numbers is None:
        return None
    source, relevance = (np.nan_to_num(arrays[name].astype(np.float64)) for name in ("source", "relevance"))
    if source.ndim != 4 or relevance.ndim != 4 or len(source) != len(relevance) or not source.size:
        raise ValueError(f"source has the shape {source.shape}, relevance {relevance.shape}")
    lists = {name: np.array(numbers[name], dtype=float) for name in LISTS}
    limits = np.array(numbers["scale_limits"], dtype=float)
    if any(values.shape != source.shape[:1] for values in (*lists.values(), limits)):
        raise ValueError("there is not one number for each image")
    maps = relevance.sum(1) / np.where(limits > 0, limits, 1)[:, None, None]
    coloured = (signed_palette()(maps.clip(-1, 1) / 2 + 0.5)[..., :3] * 255).round().astype(np.uint8)
    plain = (source if source.shape[1] == 3 else source.mean(1, keepdims=True)).clip(0, 1)
    pixels = (plain * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return {
        "images": sprite(_squares(pixels), len(pixels)),
        "maps": sprite(_squares(coloured), len(pixels)),
        "side": min(max(pixels.shape[1:3]), MOST_SIDE),
        "method": str(numbers.get("method", "")),
        "refused": [str(name) for name in numbers.get("refused") or ()],
        "chosen": [_name(material, label) for label in numbers.get("chosen_classes") or ()],
        "is_shrunk": max(pixels.shape[1:3]) > MOST_SIDE,
        "limits": limits,
        **lists,
    }


def _name(material: Material, label: int) -> str:
    return material.classes[label] if label < len(material.classes) else str(label)


def _squares(pictures: np.ndarray) -> np.ndarray:
    """(image, height, width, channel) bytes in the middle of white squares of at most `MOST_SIDE` pixels."""
    count, height, width, channels = pictures.shape
    largest = max(height, width)
    side = min(largest, MOST_SIDE)
    squares = np.full((count, largest, largest, channels), 255, np.uint8)
    top, left = (largest - height) // 2, (largest - width) // 2
    squares[:, top : top + height, left : left + width] = pictures
    if side == largest:
        return squares
    mode = "L" if channels == 1 else "RGB"
    small = [Image.fromarray(one.squeeze(), mode).resize((side, side), Image.Resampling.BOX) for one in squares]
    return np.stack([np.asarray(one).reshape(side, side, channels) for one in small])
