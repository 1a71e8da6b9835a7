"""Overview: images, accuracy by class, and the settings of the store."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pellucid.report import Section
from pellucid.report.stored._survey import Survey
from pellucid.storage.atomic import json_text

__all__ = ["overview"]

MOST_CLASSES = 100
MOST_REASONS = 20


def overview(made: Survey) -> Section:
    """Build the section with the counts and the settings."""
    tables = [table for table in (_classes(made), _reasons(made), _settings(made)) if table]
    return Section(
        name="overview",
        kind="tables",
        title="Images and settings",
        label="Overview",
        lead="Numbers of images in the complete shards of the store, and the settings that decide its values.",
        data={"tables": tables},
        hook="",
    )


def _classes(made: Survey) -> dict[str, Any] | None:
    """Return the table of classes: the largest ones, in their order."""
    count = len(made.stored.classes)
    if not count:
        return None
    sizes = made.labels + made.predictions
    chosen = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLASSES])
    rows = []
    for number in chosen.tolist():
        counts = (made.labels, made.predictions, made.judged, made.hits)
        labels, predicted, judged, hits = (int(values[number]) for values in counts)
        rows.append([
            made.stored.classes[number], f"{labels:,}", f"{predicted:,}", _share(hits, labels), _share(hits, judged),
        ])  # fmt: skip
    head = ["Class", "Images with this label", "Predictions", "Recall", "Precision"]
    if not made.labeled:
        head, rows = [head[0], head[2]], [[row[0], row[2]] for row in rows]
    more = f" The {MOST_CLASSES} largest of {count:,} classes are shown." if count > MOST_CLASSES else ""
    note = (
        "Predictions also include images without a label; recall and precision do not."
        if 0 < made.labeled < made.readable
        else ""
    )
    return {"caption": "Classes", "note": f"{note}{more}".strip(), "head": head, "rows": rows, "is_open": count <= 20}


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _reasons(made: Survey) -> dict[str, Any] | None:
    if not made.reasons:
        return None
    common = made.reasons.most_common(MOST_REASONS)
    rows = [[reason, f"{count:,}", made.examples[reason]] for reason, count in common]
    rest = made.unreadable - sum(count for _, count in common)
    if rest:
        rows.append(["other reasons", f"{rest:,}", "–"])
    return {"caption": "Images without results", "note": "", "head": ["Reason", "Images", "First key"], "rows": rows,
            "is_open": True}  # fmt: skip


def _settings(made: Survey) -> dict[str, Any] | None:
    rows = [[name, value] for name, value in _flat(made.stored.settings)]
    provenance = made.stored.attributes.get("provenance")
    if isinstance(provenance, dict):
        rows += [[name, value] for name, value in _flat(provenance)]
    return {"caption": "Settings", "note": "", "head": ["Setting", "Value"], "rows": rows, "is_open": False}


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings, nested ones with their path."""
    for name, value in settings.items():
        if isinstance(value, dict) and value and len(path) < 100:
            yield from _flat(value, f"{path}{name}.")
        elif value is not None:
            yield f"{path}{name}", value if isinstance(value, str) else json_text(value)
