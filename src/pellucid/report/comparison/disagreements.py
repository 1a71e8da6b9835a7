"""Test images that one model classifies correctly and the other does not, with the maps of both."""

from typing import Any

import numpy as np

from pellucid.report import Section
from pellucid.report.comparison._comparison import Comparison, Pair
from pellucid.report.sections.explain import packed

__all__ = ["disagreements"]


def disagreements(comparison: Comparison) -> Section | None:
    """Build the section; None if both models classify the same images correctly."""
    pairs = [_pair(comparison, pair) for pair in comparison.pairs]
    if not any(pair["rows"] for pair in pairs):
        return None
    method = comparison.method
    maps = (
        f" The maps are by {method}, with one color scale per image. Red is evidence for the class, blue is evidence "
        "against it."
        if method
        else ""
    )
    return Section(
        name="disagreements",
        kind="compare_images",
        title="Disagreements: images that only one model classifies correctly",
        label="Disagreements",
        lead=f"The most confident mistakes come first.{maps}",
        data={
            "names": [model.name for model in comparison.models],
            "classes": comparison.classes,
            "method": method,
            "pairs": pairs,
            "images": _images(comparison),
        },
        notes=_notes(comparison),
        hook="",
    )


def _notes(comparison: Comparison) -> tuple[str, ...]:
    """Return the reason why there are no maps; empty if there are."""
    if comparison.method:
        return ()
    if comparison.refused:
        reasons = " ".join(f"{name}: {reason}" for name, reason in comparison.refused.items())
        return (f"The maps are left out, because no method applies to all models. {reasons}",)
    return ("The maps are left out, because not all models and their data can be opened.",)


def _images(comparison: Comparison) -> dict[str, Any] | None:
    if "source" not in comparison.pictures:
        return None
    rows, source = comparison.pictures["rows"], comparison.pictures["source"]
    return {
        "rows": rows,
        "indices": comparison.indices[rows],
        "size": source.shape[1:3],
        "channels": source.shape[3],
        "bytes": packed(source),
    }


def _pair(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    chosen, models = pair.disagreements, [comparison.models[number] for number in (pair.first, pair.second)]
    rows = chosen.rows
    maps = None
    if chosen.maps is not None and chosen.scales is not None and chosen.limits is not None:
        limits = np.where(chosen.limits > 0, chosen.limits, 1.0)
        maps = {
            "size": [one.shape[-2:] for one in chosen.maps],
            "bytes": [packed(one) for one in chosen.maps],
            # palette steps per quantized value: 127 steps stand for the limit
            "factors": [np.round(one / limits[:, None], 6) for one in chosen.scales],
        }
    return {
        "second": pair.second,
        "counts": [pair.accuracy.first_only, pair.accuracy.second_only],
        "rows": rows.tolist(),
        "indices": comparison.indices[rows],
        "classes": chosen.classes,
        "predictions": [model.predictions[rows] for model in models],
        "confidences": [[_rounded(value) for value in model.confidences[rows]] for model in models],
        "maps": maps,
    }


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
