"""Similarity of the layers of compared models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pellucid.core.errors import PellucidError
from pellucid.evaluation._representations import Layers, images_for, linear_cka, read_layers
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
    # the models with the largest layers allow the fewest images
    inputs = [None if one.images is None else one.images.floats(own[chosen].tolist()) for one, own in zip(loaded, rows, strict=True)]
    limits = [
        images_for(one.model, images) for one, images in zip(loaded, inputs, strict=True) if one.model and images is not None
    ]
    if not limits:
        return comparison
    kept = np.arange(min(limits)) * count // min(limits)
    layers: list[Layers | None] = []
    notes = []
    for number, (one, images) in enumerate(zip(loaded, inputs, strict=True)):
        read = None
        if one.model is not None and images is not None:
            try:
                read = read_layers(one.model, images[torch.from_numpy(kept)])
            except PellucidError as error:
                notes.append(f"The layers of {comparison.models[number].name} are left out: {error}")
        layers.append(read if read and read.kernels else None)
        if read and len(read.kernels) < read.of:
            notes.append(f"{comparison.models[number].name}: {len(read.kernels)} of {read.of} layers, spread over its depth.")
    pairs = []
    for pair in comparison.pairs:
        one, two = layers[pair.first], layers[pair.second]
        if one is not None and two is not None:
            similarity = linear_cka(list(one.kernels.values()), list(two.kernels.values()))
            pair = replace(pair, layers=(list(one.kernels), list(two.kernels), similarity))
        pairs.append(pair)
    return replace(comparison, pairs=tuple(pairs), layer_images=len(kept), notes=(*comparison.notes, *notes))
