"""Similarity of the layers of two models."""

import numpy as np

from pellucid.report import Section
from pellucid.report.comparison._comparison import Comparison

__all__ = ["layers"]


def layers(comparison: Comparison) -> Section | None:
    """Build the section; None if no pair of models can be opened."""
    pairs = [
        {
            "second": pair.second,
            "first_layers": pair.layers[0],
            "other_layers": pair.layers[1],
            "values": [[round(float(v), 3) if np.isfinite(v) else None for v in row] for row in pair.layers[2]],
        }
        for pair in comparison.pairs
        if pair.layers is not None
    ]
    if not pairs:
        return None
    return Section(
        name="layers",
        kind="compare_layers",
        title="Layer similarity (linear CKA)",
        label="Layers",
        lead=f"Centered kernel alignment (Kornblith et al., 2019) of the outputs of layers with weights, over "
        f"{comparison.layer_images:,} test images, with the unbiased estimator. 1: the same representation up to "
        "rotation and scale; 0: unrelated. Input at the top left, logits at the bottom right.",
        data={"names": [model.name for model in comparison.models], "pairs": pairs},
        hook="",
    )
