"""Channels of hidden layers: reference images, classes, and their relevance in explained images."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pellucid.report import Material, Section
from pellucid.report._gallery import Gallery, galleries, is_same_network
from pellucid.report.sections._thumbnails import checked_thumbnails, deflated, thumbnail_data
from pellucid.report.sections.figures import end_moment

__all__ = ["channels"]

PARTS = ("", "earlier")
"""Names of the hook's artifacts, one for each layer."""
RANKINGS = ("relevance", "activation")
MOST_CLASSES = 12
"""Maximum number of classes of a channel: those with the largest mean |relevance|."""


def channels(material: Material) -> Section | None:
    """Build the section from the latest results of the hook `concepts`."""
    parts = galleries(material)
    found = [material.pairs("concepts", partial(_layer, parts), name) for name in PARTS]
    latest = max((max(one) for one in found if one), default=None)
    layers = [one[latest] for one in found if latest in one]
    if not layers:
        return None
    return Section(
        name="channels",
        kind="channels",
        title="Channels: what do hidden units stand for?",
        lead=(
            "Each channel of a hidden layer with the test images on which it is most relevant for the predicted class, "
            "cropped to the part that it sees. Select a channel for its classes and for the images that activate it "
            "most."
        ),
        data={"layers": layers},
        notes=tuple(filter(None, [end_moment(material)])),
        guide="concepts",
        hook="concepts",
    )


def _layer(parts: Sequence[Gallery], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a layer; raises `KeyError`, `TypeError` or `ValueError` for invalid content."""
    stored = [int(channel) for channel in arrays["channels"]]
    crops = checked_thumbnails(arrays["crops"], len(arrays["crops"]))
    means = arrays["mean_relevance"]
    if means.ndim != 2 or means.shape[1] != len(stored) or not np.isfinite(means).all() or not stored:
        raise ValueError(f"its mean relevance has shape {means.shape} for {len(stored)} channels")
    linked = {index for part in parts for index in part.columns["indices"]}
    return {
        "name": str(record["layer"]),
        "sizes": _sizes(record),
        "method": str(record["method"]),
        "images": int(record["images"]),
        "note": str(record["note"]),
        "channels": stored,
        "means": [_classes(column) for column in means.T],
        "rankings": {name: _ranking(arrays, name, (len(stored), len(crops)), linked) for name in RANKINGS},
        "crops": thumbnail_data(dict(enumerate(crops)), None),
        "explained": _explained(parts, arrays, record),
    }


def _sizes(record: Mapping[str, Any]) -> str:
    shape, axis = [int(size) for size in record["shape"]], int(record["axis"])
    positions = [str(size) for place, size in enumerate(shape, 1) if place != axis]
    return f"{shape[axis - 1]:,} channels" + (f" at {'×'.join(positions)} positions" if positions else "")


def _classes(means: np.ndarray) -> list[tuple[int, float]]:
    """Return the classes of a channel with their mean relevance, the largest first."""
    kept = np.argsort(-np.abs(means), kind="stable")[:MOST_CLASSES]
    order = kept[np.argsort(-means[kept], kind="stable")]
    return [(int(label), _rounded(float(means[label]))) for label in order if means[label]]


def _ranking(
    arrays: Mapping[str, np.ndarray], name: str, sizes: tuple[int, int], linked: Collection[int]
) -> list[list[dict[str, Any]]]:
    """Return the reference images of each channel; `sizes` are the numbers of channels and of crops.

    The section `explain` shows the images in `linked`.
    """
    fields = ("indices", "labels", "predictions", "crops", "values")
    tables = {field: arrays[f"{name}_{field}"] for field in fields}
    shape = tables["indices"].shape
    if len(shape) != 2 or shape[0] != sizes[0] or any(one.shape != shape for one in tables.values()):
        raise ValueError(f"its reference images by {name} have shape {shape} for {sizes[0]} channels")
    if not np.isfinite(tables["values"]).all() or tables["crops"].max(initial=-1) >= sizes[1]:
        raise ValueError(f"its reference images by {name} are not finite, or not among {sizes[1]} crops")
    return [
        [
            {
                "index": int(tables["indices"][row, rank]),
                "label": int(tables["labels"][row, rank]),
                "prediction": int(tables["predictions"][row, rank]),
                "crop": int(tables["crops"][row, rank]),
                "value": _rounded(float(tables["values"][row, rank])),
                "linked": int(tables["indices"][row, rank]) in linked,
            }
            for rank in range(shape[1])
            if tables["indices"][row, rank] >= 0
        ]
        for row in range(shape[0])
    ]


def _explained(
    parts: Sequence[Gallery], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the channels with maps of the images that the section `explain` shows, by the same network; or None."""
    maps, scales, every = arrays["maps"], arrays["scales"], arrays["channel_relevance"]
    top, indices = arrays["map_channels"], [int(index) for index in record["indices"]]
    shape = (len(indices), *np.shape(record["classes"])[1:], top.shape[-1])
    if maps.ndim != 5 or maps.dtype != np.int8 or any(one.shape != shape for one in (maps[..., 0, 0], scales, top)):
        raise ValueError(f"its maps have dtype {maps.dtype} and shape {maps.shape}, expected int8 and {shape}")
    if every.shape[:2] != shape[:2] or np.shape(record["totals"]) != shape[:2]:
        raise ValueError(f"its relevance has shape {every.shape} for {shape[0]} images")
    if not np.isfinite(scales).all() or not np.isfinite(every).all():
        raise ValueError("its relevance is not finite")
    rows = zip(indices, record["predictions"], record["confidences"], strict=True)
    kept = [row for row, one in enumerate(rows) if is_same_network(parts, one[0], int(one[1]), float(one[2]))]
    if not kept:
        return None
    values = np.take_along_axis(every, top.astype(int), 2)
    return {
        "rows": {indices[row]: place for place, row in enumerate(kept)},
        "classes": [[int(label) for label in record["classes"][row]] for row in kept],
        "totals": [[None if total is None else float(total) for total in record["totals"][row]] for row in kept],
        "channels": top[kept].tolist(),
        "values": [[[_rounded(one) for one in line] for line in lines] for lines in values[kept].tolist()],
        "scales": [[[_rounded(one) for one in line] for line in lines] for lines in scales[kept].tolist()],
        "size": maps.shape[-2:],
        "maps": deflated(maps[kept].tobytes()),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
