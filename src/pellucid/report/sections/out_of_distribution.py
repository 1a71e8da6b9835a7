"""Out-of-distribution detection: AUROC by score and set, histograms, and the test images least like the training."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.core.text import listed
from pellucid.report import Material, Section
from pellucid.report.sections._thumbnails import checked_thumbnails, thumbnail_data
from pellucid.report.sections.figures import end_moment

__all__ = ["out_of_distribution"]

HOOK = "out_of_distribution"
AREAS = ("auroc", "low", "high", "fpr")
COLUMNS = ("indices", "labels", "predictions", "confidences", "values")


def out_of_distribution(material: Material) -> Section | None:
    """Build the section from the run's last table; without thumbnails, the images are listed by index."""
    tables = material.by_epoch(
        material.entries(HOOK, "data"),
        lambda entry: None if (record := material.numbers(entry)) is None else _table(record),
    )
    if not tables:
        return None
    epoch = max(tables)
    table = tables[epoch]
    images = material.pairs(HOOK, _images, "least_like").get(epoch, {"lists": {}, "thumbnails": None})
    moment = end_moment(material)
    notes = (
        *([moment] if moment else []),
        *(f"No {listed(names)}: {reason.rstrip('.')}." for reason, names in table.pop("refused").items()),
        *([f"{count:,} images with outputs that are not finite are left out."] if (count := table["unusable"]) else []),
    )
    return Section(
        name=HOOK,
        kind=HOOK,
        title="Out of distribution: does it notice unfamiliar images?",
        lead=(
            "AUROC of several scores (rows) for images unlike the training images (columns): the probability that such "
            "an image has a higher score than a test image. 0.5 is chance, 1 perfect detection; below 0.5, the images "
            "look more familiar to the network than test images do."
        ),
        data={**table, **images, "classes": material.classes},
        guide=HOOK,
        notes=notes,
        label="Out of distribution",
    )


def _table(record: Mapping[str, Any]) -> dict[str, Any]:
    """Check the table of one run; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    scores, sets = [str(name) for name in record["scores"]], [str(name) for name in record["sets"]]
    rows = {(row["score"], row["set"]): row for row in record["rows"]}
    return {
        "best": str(record["best"]) if record["best"] in scores else scores[0],
        "scores": [{"name": name, "detail": str(record["scores"][name])} for name in scores],
        "sets": [_set(name, record["sets"][name]) for name in sets],
        "confidence": _share(record["mean_confidence"]),
        "test_images": int(rows[scores[0], sets[0]]["inside"]),
        "cells": [[[_share(rows[score, name][key]) for key in AREAS] for name in sets] for score in scores],
        "histograms": [_histogram(record["histograms"][score], sets) for score in scores],
        "unusable": sum(int(count) for count in record.get("unusable", {}).values()),
        "refused": _reasons(record.get("refused", {})),
    }


def _reasons(refused: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the scores that do not apply, by the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in refused.items():
        names.setdefault(str(reason), []).append(str(name))
    return names


def _set(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "detail": str(about["description"]),
        "images": int(about["images"]),
        "confidence": _share(about["mean_confidence"]),
    }


def _share(value: Any) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is not between 0 and 1")
    return share


def _histogram(stored: Mapping[str, Any], sets: list[str]) -> dict[str, Any]:
    edges = [float(edge) for edge in stored["edges"]]
    counts = [[int(count) for count in stored["counts"][name]] for name in ("test", *sets)]
    if any(len(one) != len(edges) - 1 for one in counts) or not all(map(math.isfinite, edges)):
        raise ValueError(f"a histogram has {len(edges)} edges and bins {[len(one) for one in counts]}")
    # shares, since the sets differ in size
    shares = [[round(count / max(1, sum(one)), 5) for count in one] for one in counts]
    return {"edges": edges, "is_logarithmic": bool(stored["is_logarithmic"]), "test": shares[0], "sets": shares[1:]}


def _images(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists of images by score, and their thumbnails."""
    indices = [int(index) for index in record["indices"]]
    pictures = checked_thumbnails(arrays["thumbnails"], len(indices))
    lists = {}
    for score, one in record["least_like"].items():
        lists[str(score)] = {key: [None if v is None else float(v) for v in one[key]] for key in COLUMNS}
        if len({len(values) for values in lists[str(score)].values()}) != 1:
            raise ValueError(f"the lists of {score} differ in length")
    return {"lists": lists, "thumbnails": thumbnail_data(dict(zip(indices, pictures, strict=True)), None)}
