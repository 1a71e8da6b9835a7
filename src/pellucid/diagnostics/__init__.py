"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `out_of_distribution`: scores of images unlike the training images, and how well they detect them; its parts are
  `_embedding` (distances from the training images), `_separation` (AUROC with its interval) and `_shifts` (rotated,
  inverted, noisy and shuffled images)
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics.out_of_distribution import (
        SHIFTS,
        EmbeddingReference,
        OutOfDistribution,
        Separation,
        detect,
        energy,
        maximum_logit,
        maximum_softmax,
        negative_log_density,
        ood_scores,
        separation,
        shift_images,
    )

__all__ = [
    "SHIFTS",
    "EmbeddingReference",
    "OutOfDistribution",
    "Separation",
    "detect",
    "energy",
    "maximum_logit",
    "maximum_softmax",
    "negative_log_density",
    "ood_scores",
    "separation",
    "shift_images",
]

_OUT_OF_DISTRIBUTION = (
    "SHIFTS",
    "EmbeddingReference",
    "OutOfDistribution",
    "Separation",
    "detect",
    "energy",
    "maximum_logit",
    "maximum_softmax",
    "negative_log_density",
    "ood_scores",
    "separation",
    "shift_images",
)

__getattr__, __dir__ = lazy_exports(__name__, {**dict.fromkeys(_OUT_OF_DISTRIBUTION, ".out_of_distribution")})
