"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `slices`: error rates by column of a table or by cluster, corrected for multiple looks; `_partition` groups the images

>>> sorted(__all__)[:2]
['Sampled', 'Slice']
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics.slices import Sampled, Slice, Slices, find_slices

__all__ = ["Sampled", "Slice", "Slices", "find_slices"]

__getattr__, __dir__ = lazy_exports(
    __name__, {"Sampled": ".slices", "Slice": ".slices", "Slices": ".slices", "find_slices": ".slices"}
)
