"""A store of explanations with known values, written as `explain_to_disk` writes it, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.storage.sharded import Address, Layout, ShardedStore, Variable

METHODS = ("gradient", "lrp.epsilon")
CLASSES = ("cat", "dog", "<b>owl</b>")


def values(
    images: int = 20, *, target_all: bool = False, seed: int = 0, shape: tuple[int, ...] = (1, 4, 4)
) -> dict[str, Any]:
    """Return the rows of all variables. Images 3 and 11 are unreadable, image 5 has no label."""
    draw = np.random.default_rng(seed)
    each = (len(CLASSES),) if target_all else ()
    rows: dict[str, Any] = {
        "key": np.array([f"image {number}.png" for number in range(images)], object),
        "error": np.full(images, "", object),
        "label": draw.integers(len(CLASSES), size=images),
        "logits": draw.normal(size=(images, len(CLASSES))).astype(np.float32),
        "relevance": draw.normal(size=(images, len(METHODS), *each, *shape)).astype(np.float32),
    }
    rows["prediction"] = rows["logits"].argmax(1)
    rows["target"] = rows["prediction"].copy()
    rows["expected"] = draw.normal(size=(images, len(METHODS), *each)).astype(np.float32)
    rows["expected"][:, 0] = np.nan  # the gradient promises no sum
    rows["residual"] = (rows["relevance"].sum((-1, -2, -3)) - rows["expected"]).astype(np.float32)
    for number in {3, 11} & set(range(images)):
        rows["error"][number] = f"damaged <i>file</i> {number}"
        rows["prediction"][number] = rows["target"][number] = -1
        for name in ("logits", "relevance", "expected", "residual"):
            rows[name][number] = np.nan
    if images > 5:
        rows["label"][5] = -1
    if target_all:
        del rows["target"]
    return rows


def layout_of(rows: dict[str, Any], shard: int, dtype: str = "float32") -> Layout:
    """Return the layout for some rows."""
    sizes = {"attribution": METHODS, "class": CLASSES}
    dimensions: dict[str, tuple[str, ...]] = {"logits": ("image", "class")}
    if "relevance" in rows:
        maps = ("image", "attribution", *(("class",) if rows["relevance"].ndim == 6 else ()))
        dimensions |= dict.fromkeys(("expected", "residual", "rounding"), maps)
        dimensions["relevance"] = (*maps, "channel", "height", "width")
    dimensions["jacobian"] = ("image", "class", "channel", "height", "width")
    variables = []
    for name, array in rows.items():
        kind = "str" if array.dtype == object else dtype if name == "relevance" else array.dtype.name
        about = (
            {"units": {"gradient": "logits per unit of pixel value", "lrp.epsilon": "logits"}}
            if name == "relevance"
            else {}
        )
        variables.append(
            Variable(name, kind, dimensions.get(name, ("image",)), array.shape[1:], int(name == "relevance"), about)
        )
    for name, names in sizes.items():
        if any(name in one.dimensions for one in variables):
            variables.append(Variable(name, "str", (name,), values=np.array(names, object)))
    images = len(next(iter(rows.values())))
    attributes = {
        "content": "pellucid explanations",
        "format": 1,
        "images": images,
        "shard": shard,
        "settings": {
            "model": "net </script>",
            "methods": {name: {} for name in METHODS},
            "target": "predicted",
            "dtype": dtype,
        },
        "coordinates": " ".join(name for name in ("key", "label", "prediction", "target") if name in rows),
        "provenance": {"data": "pretended", "title": "Pretended", "versions": {}, "begun": "2026-01-01T00:00:00Z"},
    }
    return Layout(images, shard, tuple(variables), attributes)


def write_store(
    place: str | Path,
    rows: dict[str, Any] | None = None,
    *,
    shard: int = 6,
    without: Sequence[int] = (),
    dtype: str = "float32",
) -> dict[str, Any]:
    """Write a store with shards of six images, leaving some shards out; returns its rows."""
    rows = values() if rows is None else rows
    store = ShardedStore.join(Address.of(place), layout_of(rows, shard, dtype))
    for number in range(store.shards):
        if number not in without:
            inside = store.rows_of(number)
            part = {name: array[inside.start : inside.stop] for name, array in rows.items()}
            if "relevance" in part:
                part["relevance"] = part["relevance"].astype(dtype)
            store.write(number, part, f"mark {number}")
    return rows
