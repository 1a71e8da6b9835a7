"""A page about the explanations of a user's images: the report's interactive relevance maps, on their own."""

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
    """Return a self-contained HTML page with maps, as `pellucid.report.sections.explain.maps_section` takes them.

    `facts` are pairs of name and value for the header, `notes` are shown above them.
    """
    head = Head(title, status="", notes=tuple(notes), facts=tuple(facts), details=(), failures=())
    # names of files can contain lone surrogates, which UTF-8 cannot encode
    return fill(head, [maps_section(arrays, record)], classes).encode("utf-8", "replace")
