"""The report: a self-contained HTML page about a run, built from the manifest and records in its save folder.

- `_page`: `write_report`, which fills the templates, scripts and styles in `page/`
- `_material`: the files of a run, read defensively; `_pictures` downsizes and encodes its figures, `_tiles` its arrays
- `_head`: the facts at the top of the page; `_mistakes`: the misclassified images next to them
- `_verdict`: conclusions in sentences; `_recommended`: the attribution method that the leaderboard recommends
- `_summary`: `summary.png`, a run in one picture
- `_gallery`: the relevance maps of the hook `gallery`, checked for the sections that show them
- `_explain_page`: a page with the relevance maps of a user's images, for `pellucid explain`
- `_section`: `Section`, the text and data of a part of the page; `sections/` builds them, one file each
- `comparison/`: the page of `pellucid compare`; `stored/`: that of a store of explanations
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.report._material import Entry, Material
    from pellucid.report._page import write_report
    from pellucid.report._section import Maker, Section

__all__ = ["Entry", "Maker", "Material", "Section", "write_report"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Entry": "._material",
        "Maker": "._section",
        "Material": "._material",
        "Section": "._section",
        "write_report": "._page",
    },
)
