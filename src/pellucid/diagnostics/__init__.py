"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `_label_errors`: examples whose label is probably wrong; its parts are `_confident_learning` (the joint distribution
  of given and true labels), `_nearest` (neighbors in the embedding), `_self_influence` and `_label_checks` (arguments)
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics._label_errors import LabelErrorPair, LabelErrors, label_errors
    from pellucid.diagnostics._self_influence import self_influence

__all__ = ["LabelErrorPair", "LabelErrors", "label_errors", "self_influence"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LabelErrorPair": "._label_errors",
        "LabelErrors": "._label_errors",
        "label_errors": "._label_errors",
        "self_influence": "._self_influence",
    },
)
