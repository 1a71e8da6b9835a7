"""Page for `pellucid explain`: the report's interactive relevance maps for a user's images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.report._head import Head
from pellucid.report._page import fill
from pellucid.report.sections.explain import maps_section

__all__ = ["explain_page"]


def explain_page(
    arrays: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    classes: Sequence[str],
) -> bytes:
    """Return a self-contained HTML page with the given maps, in the form that `maps_section` takes.

    `facts` are pairs of name and value for the header; `notes` are shown above them.
    """
    head = Head(title, status="", notes=tuple(notes), facts=tuple(facts), details=(), failures=())
    # file names can contain lone surrogates, which UTF-8 cannot encode
    return fill(head, [maps_section(arrays, record)], classes).encode("utf-8", "replace")
