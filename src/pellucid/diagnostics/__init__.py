"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `influence`: training images that raised or lowered the score of a prediction, by TracIn and TRAK.
- `_gradients`, `_projection`, `_influence`: its per-sample gradients, random projections and result.
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics.influence import (
        Influence,
        Projection,
        Ranked,
        self_influence,
        tracin,
        trak,
        trak_scores,
    )

__all__ = ["Influence", "Projection", "Ranked", "self_influence", "tracin", "trak", "trak_scores"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Influence": "pellucid.diagnostics.influence",
        "Projection": "pellucid.diagnostics.influence",
        "Ranked": "pellucid.diagnostics.influence",
        "self_influence": "pellucid.diagnostics.influence",
        "tracin": "pellucid.diagnostics.influence",
        "trak": "pellucid.diagnostics.influence",
        "trak_scores": "pellucid.diagnostics.influence",
    },
)
