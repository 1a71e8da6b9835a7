"""The page of a comparison."""

from pellucid.report._head import Head
from pellucid.report._page import fill
from pellucid.report.comparison._comparison import Comparison
from pellucid.report.comparison._verdict import verdict
from pellucid.report.comparison.agreement import agreement
from pellucid.report.comparison.confusion import confusion
from pellucid.report.comparison.curves import curves
from pellucid.report.comparison.disagreements import disagreements
from pellucid.report.comparison.embedding import embedding
from pellucid.report.comparison.layers import layers
from pellucid.report.comparison.runs import runs

__all__ = ["comparison_page"]

SECTIONS = (runs, curves, disagreements, confusion, agreement, layers, embedding)
"""Functions that build the sections, in reading order."""


def comparison_page(comparison: Comparison) -> bytes:
    """Return the self-contained HTML page of a comparison."""
    sections = [section for make in SECTIONS if (section := make(comparison)) is not None]
    names = [model.name for model in comparison.models]
    head = Head(
        title=f"Comparison: {_listed(names)} on {comparison.title}",
        status="",
        notes=comparison.notes,
        facts=(),
        details=(),
        failures=(),
        sentences=tuple(verdict(comparison)),
    )
    # names of files and classes can contain lone surrogates, which UTF-8 cannot encode
    return fill(head, sections, comparison.classes).encode("utf-8", "replace")


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{names[0]} and {len(names) - 1} others"
    return f"{', '.join(names[:-1])} and {names[-1]}"
