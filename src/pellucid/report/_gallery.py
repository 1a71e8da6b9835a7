"""Stored maps of the hook `gallery`, checked for the sections that show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pellucid.plots.colours import gray_or_rgb
from pellucid.report._material import Material

__all__ = ["Gallery", "checked", "galleries", "is_same_network", "reasons"]

SUMS = ("expected", "residual", "allowed")
COLUMNS = ("indices", "labels", "predictions", "targets")
"""Lists with one integer for each image."""
SAME = 1e-5
"""Largest difference between two stored confidences of the same network for the same image."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Validated output of the hook `gallery`: one of its two artifacts."""

    source: np.ndarray
    """Images (image, height, width, channel) as bytes, gray or color, at most about 128 pixels per side."""
    maps: np.ndarray
    """Relevance maps (method, image, class, height, width), int8."""
    scales: np.ndarray
    """Relevance that 127 represents (method, image, class)."""
    methods: list[str]
    classes: np.ndarray
    """Class that each map explains (image, class)."""
    columns: Mapping[str, list[int]]
    """Lists `indices`, `labels` and `predictions` of the images, without `labels` if they are unknown."""
    tables: Mapping[str, np.ndarray | None]
    """`confidences` (image), `logits` and `probabilities` (image, class); None if unknown."""
    sums: Mapping[str, list[np.ndarray | None]]
    """`expected`, `residual` and `allowed`: (image, class) for each method, None if it promises no sum."""
    record: Mapping[str, Any]
    """The hook's other numbers."""

    @property
    def is_whole(self) -> bool:
        """True if the source images have their original size."""
        shrunk = self.record.get("shrunk_from")
        return not shrunk or tuple(shrunk) == self.source.shape[1:3]


def galleries(material: Material) -> list[Gallery]:
    """Return the latest maps of the hook `gallery`: those for many classes, then those for two classes per image."""
    main = material.pairs("gallery", checked)
    if not main:
        return []
    latest = max(main)
    pairs = material.pairs("gallery", checked, "pairs").get(latest)
    if pairs is None:
        return [main[latest]]
    fitting = _fitting(main[latest], pairs)
    if fitting is None:
        material.note("The maps of the artifact `pairs` of the hook `gallery` do not fit its main artifact.")
    return [main[latest], *([fitting] if fitting else [])]


def _fitting(main: Gallery, pairs: Gallery) -> Gallery | None:
    """Return the images of `pairs` that are not in `main`; None if the maps or the images have other sizes."""
    sizes = [(one.maps.shape[3:], one.source.shape[1:], "labels" in one.columns) for one in (main, pairs)]
    if sizes[0] != sizes[1]:
        return None
    known = set(main.columns["indices"])
    kept = [row for row, index in enumerate(pairs.columns["indices"]) if index not in known]
    if len(kept) == len(pairs.source):
        return pairs
    return _rows(pairs, kept) if kept else None


def _rows(gallery: Gallery, kept: list[int]) -> Gallery:
    """Return some images of a gallery."""

    def part(table: np.ndarray | None) -> np.ndarray | None:
        return None if table is None else table[kept]

    return replace(
        gallery,
        source=gallery.source[kept],
        maps=gallery.maps[:, kept],
        scales=gallery.scales[:, kept],
        classes=gallery.classes[kept],
        columns={name: [values[row] for row in kept] for name, values in gallery.columns.items()},
        tables={name: part(table) for name, table in gallery.tables.items()},
        sums={name: [part(table) for table in tables] for name, tables in gallery.sums.items()},
    )


def checked(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Gallery:
    """Validate an artifact of the hook; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    source, maps, scales = (np.asarray(arrays[name]) for name in ("source", "maps", "scales"))
    if not len(maps) and record["refused"]:
        raise ValueError(f"no method applies to this model: {reasons(record['refused'])}")
    if maps.ndim != 5 or maps.dtype != np.int8 or not maps.size:
        raise ValueError(f"its maps have dtype {maps.dtype} and shape {maps.shape}, expected int8 with five axes")
    methods, images, classes = maps.shape[:3]
    if source.ndim != 4 or len(source) != images or not source.size or source.dtype != np.uint8:
        raise ValueError(f"its source has dtype {source.dtype} and shape {source.shape} for {images} images")
    if scales.shape != maps.shape[:3] or not np.isfinite(scales).all():
        raise ValueError(f"its scales have shape {scales.shape} for maps of shape {maps.shape}, or are not finite")
    names = [str(name) for name in record["methods"]]
    columns = {
        name: [int(value) for value in record[name]]
        for name in COLUMNS
        if name in ("indices", "predictions") or record.get(name) is not None
    }
    titles = record.get("titles") or [""] * images
    if len(names) != methods or any(len(column) != images for column in (*columns.values(), titles)):
        raise ValueError(f"the names or labels do not match its maps of {methods} methods and {images} images")
    # one list for all images, or one list per image
    explained = np.broadcast_to(np.asarray(record["classes"], int), (images, classes))
    plain = np.rint(gray_or_rgb(source)).astype(np.uint8)
    tables = {
        "confidences": _table(record.get("confidences"), (images,)),
        "logits": _table(record.get("logits"), (images, classes)),
        "probabilities": _table(record.get("probabilities"), (images, classes)),
    }
    sums = {name: [_table(_of(record, name, method), (images, classes)) for method in names] for name in SUMS}
    colours = plain.transpose(0, 2, 3, 1)
    return Gallery(colours, maps, scales.astype(float), names, explained, columns, tables, sums, record)


def is_same_network(parts: Sequence[Gallery], index: int, prediction: int, confidence: float) -> bool:
    """True if the gallery explains a test image with this prediction and confidence, which mean the same weights."""
    for part in parts:
        if index in part.columns["indices"]:
            row, known = part.columns["indices"].index(index), part.tables["confidences"]
            is_same = known is None or abs(float(known[row]) - confidence) <= SAME
            return part.columns["predictions"][row] == prediction and is_same
    return False


def _of(record: Mapping[str, Any], name: str, method: str) -> object:
    sums = record.get(name)
    return sums.get(method) if isinstance(sums, Mapping) else None


def _table(values: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an array of numbers, or None without values; raises `ValueError` for another shape."""
    if values is None:
        return None
    table = np.array(values, float)
    if table.shape != shape:
        raise ValueError(f"a table has shape {table.shape}, expected {shape}")
    return table


def reasons(refused: Mapping[str, Any]) -> str:
    """List methods with the reason of each in parentheses."""
    return "; ".join(f"{name} ({str(why).rstrip('.')})" for name, why in refused.items())
