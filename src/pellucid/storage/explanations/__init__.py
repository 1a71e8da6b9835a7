"""Read stored explanations: the stores of `explain_to_disk` and `jacobian_to_disk`, complete or not.

- `metadata`: checks of all metadata of a store, before any library acts on it
- `arrays`: guarded reads of rows, through `guarded` arrays; what is missing or damaged is an error that names the shard
- `stored`: `StoredExplanations`, a store or a selection of its images
- `one`: one of these images; `jacobian`: the Jacobians of all
- `selection`: which images `select` chooses
- `dataset`: the maps as a torch `Dataset`; `labeled`: as an xarray `Dataset`
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.storage.explanations.one import StoredExplanation
    from pellucid.storage.explanations.stored import StoredExplanations, open_explanations

__all__ = ["StoredExplanation", "StoredExplanations", "open_explanations"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"StoredExplanation": ".one", "StoredExplanations": ".stored", "open_explanations": ".stored"},
)
