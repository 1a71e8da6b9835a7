"""Similarity of the layers of compared models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pellucid.core.errors import PellucidError
from pellucid.diagnostics._representations import Layers, images_for, linear_cka, read_layers
from pellucid.engine.wrapping import find_module
from pellucid.report.comparison import Comparison
from pellucid.run.compared import Loaded

__all__ = ["compare_layers"]

LEAST = 4
"""Minimum number of images for the unbiased estimate."""


def compare_layers(
    comparison: Comparison, loaded: Sequence[Loaded], rows: Sequence[np.ndarray], count: int
) -> Comparison:
    """Add the CKA of each pair's layers, over up to `count` of the common test images."""
    if len(comparison.labels) < LEAST:
        return comparison
    count = max(count, LEAST)
    chosen = np.arange(count) * len(comparison.labels) // count
    inputs = [_inputs(one, own[chosen]) for one, own in zip(loaded, rows, strict=True)]
    opened = [
        (one.model, images)
        for one, images in zip(loaded, inputs, strict=True)
        if one.model is not None and images is not None
    ]
    if len(opened) < 2:
        return comparison
    # the model with the largest layers allows the fewest images
    most = min(images_for(model, images) for model, images in opened)
    kept = torch.arange(most) * count // most
    layers: list[Layers | None] = []
    notes: list[str] = []
    for model, one, images in zip(comparison.models, loaded, inputs, strict=True):
        read, note = _read(one, images, kept)
        layers.append(read)
        notes += [note.format(name=model.name)] if note else []
    pairs = []
    for pair in comparison.pairs:
        first, second = layers[pair.first], layers[pair.second]
        if first is not None and second is not None:
            names = _titles(loaded[pair.first], first), _titles(loaded[pair.second], second)
            similarity = linear_cka(list(first.kernels.values()), list(second.kernels.values()))
            pair = replace(pair, layers=(*names, similarity))
        pairs.append(pair)
    return replace(comparison, pairs=tuple(pairs), layer_images=most, notes=(*comparison.notes, *notes))


def _inputs(loaded: Loaded, rows: np.ndarray) -> Tensor | None:
    return None if loaded.images is None else loaded.images.floats(torch.from_numpy(rows.astype(np.int64)))


def _read(loaded: Loaded, images: Tensor | None, kept: Tensor) -> tuple[Layers | None, str]:
    """Return the layers of a model, if it can be opened, and a note about what is left out, with a gap for its name."""
    if loaded.model is None or images is None:
        return None, ""
    try:
        read = read_layers(loaded.model, images[kept])
    except PellucidError as error:
        return None, "The layers of {name} are left out: " + str(error).replace("{", "{{").replace("}", "}}")
    if not read.kernels:
        return None, "The layers of {name} are left out: none has weights and one output per image."
    left_out = len(read.kernels) < read.of
    return read, f"Shows {len(read.kernels)} of {read.of} layers of {{name}}, spread evenly over its depth." * left_out


def _titles(loaded: Loaded, layers: Layers) -> list[str]:
    """Return the names of layers with their types, such as `3 (Conv2d)`."""
    assert loaded.model is not None
    return [f"{name} ({type(find_module(loaded.model, name)).__name__})" for name in layers.kernels]
