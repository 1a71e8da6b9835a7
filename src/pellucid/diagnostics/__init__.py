"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `robustness`: accuracy on corrupted images (`_corruptions`), smallest adversarial changes (`_adversarial`, with the
  geometry in `_balls`) beside their first-order estimates (`_first_order`), and the movement of explanations while the
  prediction stays (`_movement`); `_classified` holds the model and the images
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics.robustness import (
        adversarial_radius,
        corruption_accuracy,
        explanation_movement,
        first_order_radius,
    )

__all__ = ["adversarial_radius", "corruption_accuracy", "explanation_movement", "first_order_radius"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adversarial_radius": ".robustness",
        "corruption_accuracy": ".robustness",
        "explanation_movement": ".robustness",
        "first_order_radius": ".robustness",
    },
)
