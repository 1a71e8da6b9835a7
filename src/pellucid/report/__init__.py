"""The report: a self-contained HTML page about a run, built from the manifest and records in its save folder.

- `_page`: `write_report`, which fills the templates, scripts and styles in `page/`
- `_material`: the files of a run, read defensively; `_pictures` downsizes and encodes its figures
- `_head`: the facts at the top of the page
- `_section`: `Section`, the text and data of a part of the page; `sections/` builds them, one file each
"""

from pellucid.report._material import Material
from pellucid.report._page import write_report
from pellucid.report._section import Section

__all__ = ["Material", "Section", "write_report"]
