"""The compared runs: accuracies, tests of their differences, and the settings that differ."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from pellucid.report import Section
from pellucid.report.comparison._comparison import Comparison

__all__ = ["runs"]

IGNORED = ("resume", "serial", "trust", "open", "config", "save", "mirror", "data_dir")
"""Settings of one command, not of a run."""
UNSET = "–"


def runs(comparison: Comparison) -> Section:
    """Build the section with one column per model."""
    rows = {
        "accuracy": [f"{comparison.accuracy(number):.2%}" for number in range(len(comparison.models))],
        "mean loss": [_number(model.losses.mean()) for model in comparison.models],
        "weights of epoch": [str(model.epoch) for model in comparison.models],
    }
    settings = _settings(comparison)
    differing = {name: values for name, values in settings.items() if len(set(values)) > 1}
    same = {name: values[0] for name, values in settings.items() if len(set(values)) == 1 and values[0] != UNSET}
    return Section(
        name="runs",
        kind="compare_runs",
        title="Runs: accuracy and differing settings",
        label="Runs",
        lead=f"Accuracy and loss (cross-entropy in nats) on {len(comparison.labels):,} test images of "
        f"{comparison.title}, and every setting that differs.",
        data={
            "names": [model.name for model in comparison.models],
            "folders": [str(model.folder) for model in comparison.models],
            "results": list(rows.items()),
            "differing": list(differing.items()),
            "same": list(same.items()),
            "pairs": [_pair(comparison, number) for number in range(len(comparison.pairs))],
        },
        hook="",
    )


def _number(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else UNSET


def _settings(comparison: Comparison) -> dict[str, list[str]]:
    """Return the settings and surroundings of all models by name."""
    tables = [_flat(model.record) for model in comparison.models]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [table.get(name, UNSET) for table in tables] for name in names}


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings and surroundings in a run.json, as text by name."""
    config = {name.replace("_", " "): value for name, value in _part(record, "config").items() if name not in IGNORED}
    model, data = _part(record, "model"), _part(record, "dataset")
    values = {
        **config,
        "epochs": record.get("epochs"),
        "model": model.get("name"),
        "parameters": model.get("parameters"),
        "preprocessing": model.get("preprocessing"),
        "embedding layer": model.get("embedding_layer"),
        "kind of run": record.get("kind", "run"),
        "status": record.get("status"),
        "device": record.get("device"),
        "threads": record.get("threads"),
        "training images": data.get("train_images"),
        "test images": data.get("test_images"),
        "image shape": data.get("image_shape"),
        "data checksum": str(data.get("sha256"))[:12] if data.get("sha256") else None,
        **{f"version of {name}": value for name, value in _part(record, "versions").items()},
        "git revision": str(record["git_revision"])[:12] if record.get("git_revision") else None,
    }
    return {name: _text(value) for name, value in values.items()}


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(value: Any) -> str:
    if value is None or value == []:
        return UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _pair(comparison: Comparison, number: int) -> dict[str, Any]:
    pair = comparison.pairs[number]
    seeds = pair.seeds
    one, two = (comparison.models[position].setting for position in (pair.first, pair.second))
    return {
        "second": pair.second,
        "images": {**pair.accuracy.to_dict(), "p": pair.p},
        "seeds": None if seeds is None else {**seeds.to_dict(), "p": pair.seeds_p},
        "is_same_setting": one == two,
    }
