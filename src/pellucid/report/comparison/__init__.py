"""The page of `pellucid compare`: several models side by side on the same test images.

- `_comparison`: `Comparison`, the numbers, and its parts
- `_verdict`: conclusions, as sentences that tests support
- `_page`: the page, from its sections
- `runs`, `curves`, `disagreements`, `confusion`, `agreement`, `layers`, `embedding`: the sections, in reading order
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.report.comparison._comparison import (
        Agreement,
        Comparison,
        Disagreements,
        Model,
        Pair,
        Setting,
    )
    from pellucid.report.comparison._page import comparison_page

__all__ = ["Agreement", "Comparison", "Disagreements", "Model", "Pair", "Setting", "comparison_page"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(("Agreement", "Comparison", "Disagreements", "Model", "Pair", "Setting"), "._comparison"),
        "comparison_page": "._page",
    },
)
