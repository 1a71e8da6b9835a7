"""Hardest test images: those with the largest loss, each with an explanation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from pellucid.plots.colours import gray_or_rgb, signed_palette
from pellucid.report import Material, Section
from pellucid.report._pictures import sprite

__all__ = ["hardest"]

MOST_SIDE = 96
"""Maximum side of the images in pixels; larger ones are downsampled."""
LISTS = ("indices", "labels", "predictions", "confidences", "true_probabilities", "losses")


def hardest(material: Material) -> Section | None:
    """Build the section with one card per image for each epoch."""
    cards = material.pairs("hardest", partial(_cards, material.classes))
    if not cards:
        return None
    notes = (
        [f"Images and maps are downsampled to {MOST_SIDE} pixels."]
        if any(c["is_shrunk"] for c in cards.values())
        else []
    )
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


def _cards(classes: Sequence[str], arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return sprite images with the images and the maps of all cards, and lists with one value per card."""
    # the relevance of a network that has diverged can be NaN
    source, relevance = (np.nan_to_num(arrays[name].astype(np.float64)) for name in ("source", "relevance"))
    if source.ndim != 4 or relevance.ndim != 4 or len(source) != len(relevance) or not source.size:
        raise ValueError(f"source has shape {source.shape} and relevance has shape {relevance.shape}")
    lists, names = {name: np.array(numbers[name], dtype=float) for name in LISTS}, dict(enumerate(classes))
    limits = np.array(numbers["scale_limits"], dtype=float)
    if any(values.shape != source.shape[:1] for values in (*lists.values(), limits)):
        raise ValueError("the number of values differs from the number of images")
    # a scale of 0 marks a map of zeros
    maps = relevance.sum(1) / np.where(limits > 0, limits, 1)[:, None, None]
    # the palette maps 0…1, with zero relevance in the middle
    coloured = (signed_palette()(maps.clip(-1, 1) / 2 + 0.5)[..., :3] * 255).round().astype(np.uint8)
    pixels = (gray_or_rgb(source).clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return {
        "images": sprite(_squares(pixels), len(pixels)),
        "maps": sprite(_squares(coloured), len(pixels)),
        "side": min(max(pixels.shape[1:3]), MOST_SIDE),
        "method": str(numbers.get("method", "")),
        "refused": [str(name) for name in numbers.get("refused") or ()],
        "chosen": [names.get(label, str(label)) for label in numbers.get("chosen_classes") or ()],
        "is_shrunk": max(pixels.shape[1:3]) > MOST_SIDE,
        "limits": limits,
        **lists,
    }


def _squares(pictures: np.ndarray) -> np.ndarray:
    """Center pictures (image, height, width, channel) on white squares and downsample those to `MOST_SIDE` pixels."""
    count, height, width, channels = pictures.shape
    largest = max(height, width)
    side = min(largest, MOST_SIDE)
    # the cards have one size; white is the color of the page
    squares = np.full((count, largest, largest, channels), 255, np.uint8)
    top, left = (largest - height) // 2, (largest - width) // 2
    squares[:, top : top + height, left : left + width] = pictures
    if side == largest:
        return squares
    mode = "L" if channels == 1 else "RGB"
    small = [Image.fromarray(one.squeeze(), mode).resize((side, side), Image.Resampling.BOX) for one in squares]
    return np.stack([np.asarray(one).reshape(side, side, channels) for one in small])
