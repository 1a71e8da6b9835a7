"""The interface of a report section: its text and the data for its script."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.report._material import Material

__all__ = ["Maker", "Section"]


@dataclass(frozen=True)
class Section:
    """A section of the page: its markup is in `page/KIND.html`, its script in `KIND.js`, its style in `KIND.css`.

    >>> def epochs(material: Material) -> Section:
    ...     data = {"epochs": len(material.metrics)}
    ...     return Section("epochs", "figures", "Epochs", "Number of finished epochs.", data)
    >>> from pathlib import Path
    >>> from pellucid.storage import Store
    >>> epochs(Material(Store(Path("unused")))).data
    {'epochs': 0}
    """

    name: str
    """Id on the page."""
    kind: str
    """Template, script and style, which similar sections share."""
    title: str
    lead: str
    """One or two sentences on what the section shows and how to read it."""
    data: Mapping[str, Any]
    """JSON data for the script."""
    guide: str = ""
    """Page of the documentation with more information, without its suffix."""
    notes: tuple[str, ...] = field(default=())
    """Remarks about missing, downsampled or refused content."""
    label: str = ""
    """Short title for the navigation bar; the title up to its colon or parenthesis by default."""
    hook: str | tuple[str, ...] | None = None
    """Hooks whose static figures this section replaces; None: the hook of the same name, "": no hook."""

    @property
    def short_title(self) -> str:
        """Title in the navigation bar.

        >>> Section("a", "figures", "Embedding (t-SNE): which images look alike?", "", {}).short_title
        'Embedding'
        """
        return self.label or re.split(r"[:(]", self.title)[0].strip() or self.title


Maker = Callable[[Material], Section | None]
"""A function that builds a section from the files of a run; returns None if there is nothing to show."""
