"""The page of a store."""

import os
from collections.abc import Callable

from pellucid.report import Section
from pellucid.report._head import Head
from pellucid.report._page import fill
from pellucid.report.stored._survey import Survey, survey
from pellucid.report.stored.confusion import confusion
from pellucid.report.stored.faithfulness import extremes, residuals
from pellucid.report.stored.mean_maps import mean_maps
from pellucid.report.stored.overview import overview
from pellucid.storage.explanations import StoredExplanations, open_explanations
from pellucid.storage.sharded import Address

__all__ = ["stored_page", "write_stored_report"]

SECTIONS: tuple[Callable[[Survey], Section | None], ...] = (mean_maps, residuals, extremes, confusion, overview)
"""Functions that build the sections, in reading order."""


def write_stored_report(path: "str | os.PathLike[str] | Address") -> str:
    """Write the page of a store of explanations beside it, as `maps.html` for `maps.zarr`, and return its address.

    The store is read once, with progress and in constant memory. If it is incomplete, the page says so. Raises
    `DataError` if there is no store, or for a damaged shard, and `SaveError` if the page cannot be written.
    """
    address = Address.of(path)
    content = stored_page(open_explanations(address))
    parent, _, name = address.text.rpartition("/")
    page = f"{name.removesuffix('.zarr')}.html"
    Address(parent).write(page, content)
    return f"{parent}/{page}"


def stored_page(stored: StoredExplanations) -> bytes:
    """Return the self-contained HTML page of a store."""
    made = survey(stored)
    sections = [section for make in SECTIONS if (section := make(made)) is not None]
    provenance = stored.attributes.get("provenance")
    title = str(provenance.get("title", "")) if isinstance(provenance, dict) else ""
    model = stored.settings.get("model")
    about = f"{title or 'a data set'}{f' by {model}' if isinstance(model, str) and stored.methods else ''}"
    head = Head(
        title=f"Stored explanations: {about}",
        status="",
        notes=tuple(_notes(made)),
        facts=tuple(_facts(made)),
        details=(),
        failures=(),
    )
    # keys and names of classes can contain lone surrogates, which UTF-8 cannot encode
    return fill(head, sections, made.classes).encode("utf-8", "replace")


def _notes(made: Survey) -> list[str]:
    missing = len(made.stored) - made.images
    if not missing:
        return []
    text = (
        f"The store is not complete: {missing:,} of {len(made.stored):,} images are in missing shards and not counted "
        "here. Repeat the command that began it, and write this page again."
    )
    return [text]


def _facts(made: Survey) -> list[tuple[str, str]]:
    stored = made.stored
    facts = [("images", f"{made.images:,}")]
    if made.unreadable:
        facts.append(("without results", f"{made.unreadable:,}"))
    if made.labeled:
        facts.append(("accuracy", f"{made.right / made.labeled:.2%} of {made.labeled:,}"))
    if made.readable and "prediction" in stored.variables:
        facts.append(("mean confidence", f"{made.confidence / made.readable:.1%}"))
    if stored.methods:
        facts.append(("methods", ", ".join(stored.methods)))
    if stored.classes:
        facts.append(("classes", f"{len(stored.classes):,}"))
    target = stored.settings.get("target")
    if stored.methods and target is not None:
        facts.append(("explained class", str(target.get("name", "?")) if isinstance(target, dict) else str(target)))
    return [*facts, ("store", stored.address)]
