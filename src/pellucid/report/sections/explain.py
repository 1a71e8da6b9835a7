"""Interactive explanations: one test image explained by any method for any class, with the conservation check."""

import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from pellucid.plots.colours import gray_or_rgb, scale_limit, signed_palette
from pellucid.report import Material, Section
from pellucid.report.sections.figures import end_moment

__all__ = ["explain", "maps_section", "packed", "palette"]

SUMS = ("expected", "total", "residual")


@dataclass(frozen=True, eq=False)
class Gallery:
    """Validated output of the hook `gallery`."""

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
    record: Mapping[str, Any]
    """The hook's other numbers."""


def explain(material: Material) -> Section | None:
    """Build the section from the latest maps of the hook `gallery`."""
    sections = material.pairs("gallery", partial(_section, end_moment(material)))
    return sections[max(sections)] if sections else None


def _section(moment: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Section:
    """Build the section from one artifact; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    return maps_section(arrays, record, f"{moment} Independent of the epoch slider.".strip(), noun="test image")


def maps_section(
    arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], *notes: str, noun: str = "image"
) -> Section:
    """Build the section from arrays and numbers like those of the hook `gallery`.

    The record may have `titles` (names of the images) and `targets` (the class of each image to show first), and may
    lack `labels`. Raises `KeyError`, `TypeError` or `ValueError` for invalid content.
    """
    gallery = _checked(arrays, record)
    return Section(
        name="explain",
        kind="explain",
        title="Relevance maps: explain any image, method and class",
        lead=f"Select {'an' if noun == 'image' else 'a'} {noun}, a method and a class. Red pixels are evidence for the "
        "class, blue ones against it.",
        data={**_data(gallery), "noun": noun},
        guide="methods_overview",
        notes=(*notes, *_notes(gallery)),
        hook="gallery",
    )


def _checked(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Gallery:
    source, maps, scales = (np.asarray(arrays[name]) for name in ("source", "maps", "scales"))
    if not len(maps) and record["refused"]:
        raise ValueError(f"no method applies to this model: {_reasons(record['refused'])}")
    if maps.ndim != 5 or maps.dtype != np.int8 or not maps.size:
        raise ValueError(f"its maps have dtype {maps.dtype} and shape {maps.shape}, expected int8 with five axes")
    methods, images, classes = maps.shape[:3]
    if source.ndim != 4 or len(source) != images or not source.size or source.dtype != np.uint8:
        raise ValueError(f"its source has dtype {source.dtype} and shape {source.shape} for {images} images")
    if scales.shape != maps.shape[:3] or not np.isfinite(scales).all():
        raise ValueError(f"its scales have shape {scales.shape} for maps of shape {maps.shape}, or are not finite")
    names = [str(name) for name in record["methods"]]
    known = ("indices", "labels", "predictions") if record.get("labels") is not None else ("indices", "predictions")
    columns = {name: [int(value) for value in record[name]] for name in known}
    if record.get("targets") is not None:
        columns["targets"] = [int(value) for value in record["targets"]]
    titles = record.get("titles") or [""] * images
    if len(names) != methods or any(len(column) != images for column in (*columns.values(), titles)):
        raise ValueError(f"the names or labels do not match its maps of {methods} methods and {images} images")
    # one list for all images, or one list per image
    explained = np.broadcast_to(np.asarray(record["classes"], int), (images, classes))
    plain = np.rint(gray_or_rgb(source)).astype(np.uint8)
    return Gallery(plain.transpose(0, 2, 3, 1), maps, scales.astype(float), names, explained, columns, record)


def _data(gallery: Gallery) -> dict[str, Any]:
    record, shape = gallery.record, gallery.maps.shape[1:3]
    # undo the quantization to find the color scales
    values = gallery.maps / 127.0 * gallery.scales[..., None, None]
    source = gallery.source
    return {
        "palette": palette(),
        "size": gallery.maps.shape[3:],
        "source": {"size": source.shape[1:3], "channels": source.shape[3], "bytes": packed(source)},
        # only then may the page draw a map over the image pixel by pixel
        "is_exact": source.shape[1:3] == gallery.maps.shape[3:] and not record.get("shrunk_from"),
        **gallery.columns,
        "titles": [str(title) for title in record.get("titles") or []],
        "methods": gallery.methods,
        "maps": [packed(maps) for maps in gallery.maps],
        "scales": _rounded(gallery.scales),
        "limits": [[[_limit(one) for one in image] for image in method] for method in values],
        "shared_limits": [[_limit(image) for image in method] for method in values],
        "classes": gallery.classes,
        "logits": _table(record.get("logits"), shape),
        "probabilities": _table(record.get("probabilities"), shape),
        **{name: [_table(_of(record, name, method), shape) for method in gallery.methods] for name in SUMS},
    }


def packed(values: np.ndarray) -> str:
    """Compress the bytes of an array with zlib and encode them in base64.

    Unlike a picture, whose pixels some browsers perturb when a script reads them, this is exact.

    >>> packed(np.zeros(3, np.int8))
    'eNpjYGAAAAADAAE='
    """
    return b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


def palette() -> str:
    """Return the signed palette as 255 colors for -127 to 127, six hexadecimal digits each.

    >>> len(palette()), palette()[127 * 6 : 128 * 6]
    (1530, 'f7f6f6')
    """
    # 0 to 1 in 254 steps, so that 127 is exactly the middle
    return "".join(to_hex(colour)[1:] for colour in signed_palette()(np.arange(255) / 254))


def _limit(values: np.ndarray) -> float:
    return float(f"{scale_limit(values):.6g}")


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round to six significant digits, more than the 255 quantization levels resolve."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)


def _of(record: Mapping[str, Any], name: str, method: str) -> object:
    sums = record.get(name)
    return sums.get(method) if isinstance(sums, Mapping) else None


def _table(values: object, shape: Sequence[int]) -> np.ndarray | None:
    """Return a table (image, class) of numbers, or None without values; raises `ValueError` for another shape."""
    if values is None:
        return None
    table = np.array(values, float)
    if table.shape != tuple(shape):
        raise ValueError(f"a table has shape {table.shape} for {shape[0]} images and {shape[1]} classes")
    return table


def _notes(gallery: Gallery) -> list[str]:
    notes, record = [], gallery.record
    shrunk, now = record.get("shrunk_from"), gallery.maps.shape[3:]
    if shrunk and tuple(shrunk) != now:
        sizes = ["×".join(str(side) for side in size) for size in (shrunk, now)]
        notes.append(f"The maps are downsampled from {sizes[0]} to {sizes[1]} by summing over areas.")
    options = record.get("options") or {}
    if options:
        used = "; ".join(f"{name} with {_settings(chosen)}" for name, chosen in options.items())
        notes.append(f"To save time, some methods do not use their default settings: {used}.")
    if record.get("refused"):
        notes.append(f"Not applicable to this model: {_reasons(record['refused'])}.")
    if record.get("left_out"):
        notes.append(f"Left out for the budget: {_reasons(record['left_out'])}.")
    return notes


def _settings(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _reasons(refused: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} ({str(why).rstrip('.')})" for name, why in refused.items())
