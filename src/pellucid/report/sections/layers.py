"""Statistics of the layers after each epoch: a table, the similarity of layers, and attention heads."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.report import Material, Section
from pellucid.report.sections.explain import packed

__all__ = ["layers"]

NUMBERS = ("mean", "std", "zeros", "effective_rank", "gradient_norm", "gradient_ratio")
"""Statistics of a row, which can be None."""
COUNTS = ("units", "dead", "rank_bound", "nonfinite")
MOST_FINDINGS = 8


def layers(material: Material) -> Section | None:
    """Build the section from the hook `layers`, for every epoch."""
    epochs = material.by_epoch(
        material.entries("layers", "data"),
        lambda entry: None if (record := material.numbers(entry)) is None else _epoch(record),
    )
    if not epochs:
        return None
    attention = material.pairs("layers", _attention, "attention")
    latest = epochs[max(epochs)]
    bound = latest["active_bound"]
    return Section(
        name="layers",
        kind="layers",
        title="Layers: activations, effective rank and gradients",
        lead=(
            f"Statistics of {latest['images']:,} test images. Layers with weights (bold) are read before the "
            "activation. A dead unit is zero for all of these images: with 95% confidence, it is active for fewer than "
            f"{bound:.1%} of images. A saturated unit is on a flat part of its function for at least 95% of its "
            "inputs. Small charts: all epochs."
        ),
        data={"epochs": epochs, "attention": attention},
        guide="layers",
    )


def _epoch(record: Mapping[str, Any]) -> dict[str, Any]:
    rows = [_row(row) for row in record["layers"]]
    if not rows:
        raise ValueError("it has no layers")
    names = record["cka_titles"]
    return {
        "rows": _with_own_similarity(rows, record),
        "images": int(record["images"]),
        "active_bound": float(record["active_bound"]),
        "findings": [
            {"text": str(one["text"]), "severe": bool(one["is_severe"])} for one in record["findings"][:MOST_FINDINGS]
        ],
        "names": None if names is None else [str(name) for name in names],
        "cka": None if names is None else _matrix(record["cka"], len(names)),
        "cka_images": None if names is None else int(record["cka_images"]),
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: int(row[name]) for name in COUNTS}
    if not 0 <= counts["dead"] <= counts["units"]:
        raise ValueError(f"the layer {row['title']} has {row['dead']} dead of {row['units']} units")
    return {
        "title": str(row["title"]),
        "path": str(row["name"]).partition("@")[0],
        "active": bool(row["is_activation"]),
        **counts,
        **{name: _number(row[name]) for name in NUMBERS},
        "saturated": None if row["saturated"] is None else int(row["saturated"]),
        "before": None,
        "first": None,
    }


def _number(value: Any) -> float | None:
    """Return a number with four digits; None stays None."""
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.4g}")


def _with_own_similarity(rows: list[dict[str, Any]], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add the CKA of each layer with itself after earlier epochs to its row."""
    for key, name in (("before", "cka_previous"), ("first", "cka_first")):
        if record[name] is not None:
            known = dict(zip(map(str, record["cka_layers"]), map(_number, record[name]), strict=True))
            for row in rows:
                row[key] = None if row["active"] else known.get(row["path"])
    return rows


def _matrix(values: Any, count: int) -> list[list[float | None]]:
    if len(values) != count or any(len(line) != count for line in values):
        raise ValueError(f"its similarity has not {count} rows and columns")
    return [[None if value is None else round(float(value), 3) for value in line] for line in values]


def _attention(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shares of the heads, and the rollouts with their images as bytes."""
    shares, rollout, images = (arrays[name].astype(float) for name in ("shares", "rollout", "images"))
    names = [str(name) for name in record["layers"]]
    if shares.ndim != 2 or len(shares) != len(names) or rollout.ndim != 3 or images.ndim != 4:
        raise ValueError(f"its heads have shape {shares.shape}, its rollouts {rollout.shape}")
    if len(rollout) != len(images) or not np.isfinite(rollout).all() or images.shape[1] not in (1, 3):
        rollout, images = rollout[:0], images[:0]
    most = float(rollout.max(initial=0)) or 1.0
    return {
        "names": names,
        "shares": [[round(value, 4) if math.isfinite(value) else None for value in line] for line in shares.tolist()],
        "indices": [int(index) for index in record["indices"]][: len(images)],
        "refused": {str(name): str(reason) for name, reason in dict(record["refused"]).items()},
        "size": list(rollout.shape[1:]),
        "channels": images.shape[1],
        "most": float(f"{most:.3g}"),
        "rollout": packed((rollout / most * 255).round().clip(0, 255).astype(np.uint8)),
        "images": packed((images.transpose(0, 2, 3, 1) * 255).round().clip(0, 255).astype(np.uint8)),
    }
