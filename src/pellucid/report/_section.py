"""The contract of a section: what it says, and what its script on the page gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.report._material import Material

__all__ = ["Maker", "Section"]


@dataclass(frozen=True)
class Section:
    """One part of the page. Its markup is `page/KIND.html`, its behaviour `page/KIND.js`, its look `page/KIND.css`."""

    name: str
    """Its id on the page."""
    kind: str
    """The template and the script it shares with sections that look alike."""
    title: str
    lead: str
    """One line: what one sees, and how to read it."""
    data: Mapping[str, Any]
    """JSON for its script."""
    guide: str = ""
    """The page of the documentation that tells more, without its ending."""
    notes: tuple[str, ...] = field(default=())
    """What the reader must know: what is missing, shrunk, or was refused."""
    hook: str | None = None
    """The hook whose figures it makes superfluous, where that is not its name; "": none."""


Maker = Callable[[Material], Section | None]
"""Makes a section of what a run left; None where there is nothing of it."""
