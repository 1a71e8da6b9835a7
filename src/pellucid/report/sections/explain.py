"""Interactive explanations: one test image explained by any method for any class, with the conservation check."""

import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from pellucid.plots.colours import SHOWN_SHARE, signed_palette
from pellucid.report import Material, Section
from pellucid.report._gallery import Gallery, checked, galleries, reasons
from pellucid.report._recommended import recommended_method
from pellucid.report.sections._influence import influence_data
from pellucid.report.sections.figures import end_moment

__all__ = ["explain", "maps_section", "packed", "palette"]

EFFORT = 6
"""Compression level of zlib; the highest takes eight times as long and saves less than 1%."""


def explain(material: Material) -> Section | None:
    """Build the section from the latest maps of the hook `gallery`."""
    parts = galleries(material)
    if not parts:
        return None
    note = f"{end_moment(material)} Independent of the epoch slider.".strip()
    section = _section(parts, [note], noun="test image", opens_on=recommended_method(material))
    influence = influence_data(material, parts)
    if influence is None:
        return section
    return replace(section, data={**section.data, "influence": influence}, hook=("gallery", "influence"))


def maps_section(
    arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], *notes: str, noun: str = "image"
) -> Section:
    """Build the section from arrays and numbers like those of the hook `gallery`.

    The record may have `titles` (names of the images) and `targets` (the class of each image to show first), and may
    lack `labels`. Raises `KeyError`, `TypeError` or `ValueError` for invalid content.
    """
    return _section([checked(arrays, record)], notes, noun=noun, opens_on=None)


def _section(parts: Sequence[Gallery], notes: Sequence[str], *, noun: str, opens_on: str | None) -> Section:
    methods = list(dict.fromkeys(name for part in parts for name in part.methods))
    opened = opens_on if opens_on in methods else None
    first = parts[0]
    reason = [f"Opens on {opened}, the method that the leaderboard recommends."] if opened else []
    return Section(
        name="explain",
        kind="explain",
        title="Relevance maps: explain any image, method and class",
        lead=f"Select {'an' if noun == 'image' else 'a'} {noun}, a method and a class. Red pixels are evidence for the "
        "class, blue ones against it.",
        data={
            "size": first.maps.shape[3:],
            "source": {"size": first.source.shape[1:3], "channels": first.source.shape[3]},
            # only then may the page draw a map over the image pixel by pixel
            "is_exact": first.source.shape[1:3] == first.maps.shape[3:] and not first.record.get("shrunk_from"),
            # only then are the pixels those that the network received
            "has_whole_images": first.is_whole,
            # other sections may ask for the images of a test set
            "has_images": noun == "test image",
            "noun": noun,
            "opens_on": opened,
            "methods": methods,
            "parts": [_data(part, methods) for part in parts],
            "remarks": _remarks(parts),
            "influence": None,
        },
        guide="methods_overview",
        notes=tuple(filter(None, [" ".join([*reason, *notes])])),
        hook="gallery",
    )


def _data(gallery: Gallery, methods: Sequence[str]) -> dict[str, Any]:
    """Return the part of the JSON that one artifact contributes; `methods` are those of all parts."""
    rows = {name: row for row, name in enumerate(gallery.methods)}
    own, shared = _limits(gallery.maps, gallery.scales)
    scales = _rounded(gallery.scales)
    return {
        **gallery.columns,
        "titles": [str(title) for title in gallery.record.get("titles") or []],
        "classes": gallery.classes,
        **gallery.tables,
        "source": packed(gallery.source),
        # one entry per method, None where this artifact has no maps
        "maps": [packed(gallery.maps[rows[name]]) if name in rows else None for name in methods],
        "scales": [scales[rows[name]] if name in rows else None for name in methods],
        "limits": [own[rows[name]] if name in rows else None for name in methods],
        "shared_limits": [shared[rows[name]] if name in rows else None for name in methods],
        **{
            name: [tables[rows[method]] if method in rows else None for method in methods]
            for name, tables in gallery.sums.items()
        },
    }


def packed(values: np.ndarray) -> str:
    """Compress the bytes of an array with zlib and encode them in base64.

    Unlike a picture, whose pixels some browsers perturb when a script reads them, this is exact.

    >>> packed(np.zeros(3, np.int8))
    'eJxjYGAAAAADAAE='
    """
    return b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), EFFORT)).decode()


def palette() -> str:
    """Return the signed palette as 255 colors for -127 to 127, six hexadecimal digits each.

    >>> len(palette()), palette()[127 * 6 : 128 * 6]
    (1530, 'f7f6f6')
    """
    # 0 to 1 in 254 steps, so that 127 is exactly the middle
    return "".join(to_hex(colour)[1:] for colour in signed_palette()(np.arange(255) / 254))


def _limits(maps: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of the color scales (see `scale_limit`) of all maps, and of the classes of an image together.

    They are (method, image, class) and (method, image).
    """
    steps = np.abs(maps.astype(np.int16)).reshape(*maps.shape[:3], -1)
    # quantiles of whole numbers are fast; all maps at once, because each call takes longer than a map
    own = _chosen_limit(np.quantile(steps, SHOWN_SHARE, axis=-1) * scales / 127, steps.max(-1) * scales / 127)
    values = (steps * (scales / 127)[..., None]).reshape(*maps.shape[:2], -1)
    return own, _chosen_limit(np.quantile(values, SHOWN_SHARE, axis=-1), values.max(-1))


def _chosen_limit(quantile: np.ndarray, largest: np.ndarray) -> np.ndarray:
    limits = np.where(quantile > 0, quantile, largest)
    return _rounded(np.where(limits > 0, limits, 1.0))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round to six significant digits, more than the 255 quantization levels resolve."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)


def _remarks(parts: Sequence[Gallery]) -> list[str]:
    """Return the small print: what is downsampled, computed with other settings, refused or left out."""
    notes, first = [], parts[0].record
    shrunk, now = first.get("shrunk_from"), parts[0].maps.shape[3:]
    if shrunk and tuple(shrunk) != now:
        sizes = ["×".join(str(side) for side in size) for size in (shrunk, now)]
        notes.append(f"The maps are downsampled from {sizes[0]} to {sizes[1]} by summing over areas.")
    options = first.get("options") or {}
    if options:
        used = "; ".join(f"{name} with {_settings(chosen)}" for name, chosen in options.items())
        notes.append(f"To save time, some methods do not use their default settings: {used}.")
    for part in parts[1:]:
        others = {
            name: chosen for name, chosen in (part.record.get("options") or {}).items() if chosen != options.get(name)
        }
        if others:
            used = "; ".join(f"{name} with {_settings(chosen)}" for name, chosen in others.items())
            notes.append(f"Images with maps for two classes use {used}.")
    for name, text in (("refused", "Not applicable to this model"), ("left_out", "Omitted to stay within the budget")):
        if first.get(name):
            notes.append(f"{text}: {reasons(first[name])}.")
    return notes


def _settings(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
