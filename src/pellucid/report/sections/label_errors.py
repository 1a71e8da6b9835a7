"""Label errors: training images whose label is probably wrong, to sort and filter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.report import Material, Section
from pellucid.report.sections._thumbnails import checked_thumbnails, deflated

__all__ = ["label_errors"]

INTEGERS = ("indices", "labels", "suggested")
NUMBERS = ("scores", "label_probabilities", "suggested_probabilities")
EVIDENCE = ("neighbors", "self_influence")
IN_SAMPLE = (
    "The network was trained on these labels. It may have memorized wrong ones, and those are missed; "
    "pellucid.label_errors takes out-of-fold probabilities."
)
PAIRS = 5
"""Maximum number of pairs of classes that are listed."""


def label_errors(material: Material) -> Section | None:
    """Build the section with the most suspicious training images of the last epoch that has any."""
    records = material.pairs("label_errors", _cards)
    if not records:
        return None
    cards = records[max(records)]
    numbers = cards.pop("numbers")
    return Section(
        name="label_errors",
        kind="label_errors",
        title="Label errors: which labels are probably wrong?",
        lead=(
            "Training images whose label is most probably wrong: label → suggested class. score: log-odds that the "
            "label is wrong; p: probability of the label → of the suggested class; neighbors: share of the most "
            "similar images with another label."
        ),
        data={"cards": cards, "classes": material.classes},
        guide="label_errors",
        notes=tuple(_notes(numbers, material.classes)),
    )


def _cards(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> dict[str, Any]:
    count = len(numbers["indices"])
    images = checked_thumbnails(arrays["thumbnails"], count)
    columns: dict[str, Any] = {name: [int(value) for value in numbers[name]] for name in INTEGERS}
    for name in (*NUMBERS, *EVIDENCE):
        if numbers[name] is None and name in EVIDENCE:
            continue
        columns[name] = [None if value is None else float(value) for value in numbers[name]]
    if any(len(values) != count for values in columns.values()):
        raise ValueError("the number of values differs from the number of images")
    return {
        **columns,
        "side": images.shape[1],
        "channels": images.shape[3],
        "images": deflated(images.tobytes()),
        "numbers": dict(numbers),
    }


def _notes(numbers: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    names = dict(enumerate(classes))
    suspects, images, total = (int(numbers[name]) for name in ("suspects", "images", "of"))
    share = f"{images:,} training images" if images == total else f"{images:,} of {total:,} training images"
    pairs = [
        f"{names.get(pair['given'], pair['given'])} → {names.get(pair['true'], pair['true'])} ({pair['count']:.0f})"
        for pair in numbers["pairs"][:PAIRS]
    ]
    frequent = f" Most frequent, label → estimated class: {', '.join(pairs)}." if pairs else ""
    estimate = f"Confident learning estimates about {suspects:,} label errors among {share}.{frequent}"
    notes = [estimate, IN_SAMPLE]
    if numbers.get("no_embedding"):
        notes.append(f"Without neighbors: {numbers['no_embedding']}")
    if chosen := numbers.get("chosen_classes"):
        notes.append(f"Restricted to {', '.join(names.get(label, str(label)) for label in chosen)} by --classes.")
    return notes
