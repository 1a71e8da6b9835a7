"""The page of `pellucid report STORE.zarr`: stored explanations of a data set, from one pass over the store.

- `_survey`: `Survey`, the counts, and the pass; `_maps`: sums and extremes that are kept on the way
- `_page`: `write_stored_report`, the page from its sections
- `overview`, `mean_maps`, `faithfulness`, `confusion`: the sections, in reading order
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.report.stored._page import write_stored_report
    from pellucid.report.stored._survey import Survey, survey

__all__ = ["Survey", "survey", "write_stored_report"]

__getattr__, __dir__ = lazy_exports(
    __name__, {"Survey": "._survey", "survey": "._survey", "write_stored_report": "._page"}
)
