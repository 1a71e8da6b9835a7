"""Write the save folder of a run without any training."""

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid.core.contracts import Artifact
from pellucid.storage.store import Store

__all__ = [
    "CLASSES",
    "COUNTS",
    "EPOCHS",
    "cell_images",
    "data_of",
    "hardest_images",
    "keep",
    "leaderboard_record",
    "metrics_line",
    "png",
    "run_record",
    "write_run",
]

EPOCHS = (0, 1, 2)
CLASSES = ("cat", "dog", "a bird with a very long name")
COUNTS = {
    0: [[4, 0, 0], [5, 0, 0], [6, 0, 0]],
    1: [[3, 1, 0], [2, 3, 0], [0, 3, 3]],
    2: [[4, 0, 0], [1, 4, 0], [0, 2, 4]],
}
"""Confusion matrix of each epoch, with the true classes as rows."""


def run_record(classes: tuple[str, ...] = CLASSES, **changes: Any) -> dict[str, Any]:
    return {
        "config": {"save": "save", "seed": 3, "mirror": []},
        "command": "runner.py --seed 3",
        "status": "finished",
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "versions": {"python": "3.11", "torch": "2.9"},
        "git_revision": "abc123",
        "dataset": {
            "requested": "auto",
            "name": "pets",
            "title": "Pets",
            "notice": None,
            "train_images": 1500,
            "validation_images": 100,
            "test_images": 15,
            "image_shape": [1, 4, 4],
            "classes": list(classes),
            "sha256": "0" * 64,
        },
        "model": {"name": "cnn", "parameters": 76810, "embedding_layer": "3"},
        "epochs": 2,
        "test_accuracy": 0.8,
        "timing": {"started": "2026-01-31T12:00:00Z", "finished": "2026-01-31T13:02:03Z"},
    } | changes


def metrics_line(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": None if epoch == 0 else 1.0 / epoch,
        "train_accuracy": None if epoch == 0 else 0.5 + 0.1 * epoch,
        "validation_loss": 2.0 / (1 + epoch),
        "validation_accuracy": 0.3 + 0.2 * epoch,
        "test_loss": 2.1 / (1 + epoch),
        "test_accuracy": 0.25 + 0.2 * epoch,
        "learning_rate": 0.01,
        "best": epoch == 1,
        "timing": {"seconds": 1.0, "images_per_second": 10.0},
    }


def png(shade: int = 128, size: tuple[int, int] = (60, 40), noise: int | None = None) -> bytes:
    """Return a gray PNG, or with the seed `noise` one that does not compress."""
    picture = Image.new("RGB", size, (shade, shade, shade))
    if noise is not None:
        pixels = np.random.default_rng(noise).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return packed.getvalue()


def keep(store: Store, hook: str, epoch: int, picture: bytes | None = None, name: str = "", **parts: Any) -> None:
    made = Artifact(f"Pets, epoch {epoch}: {hook}", name, **parts)
    store.keep(store.pack(hook, epoch, made, picture))


def cell_images(counts: list[list[int]]) -> dict[str, Any]:
    """Return up to two uniformly shaded thumbnails for each nonempty cell."""
    cells = [(row, column) for row, line in enumerate(counts) for column, count in enumerate(line) if count]
    pairs = [cell for cell in cells for _ in range(min(2, counts[cell[0]][cell[1]]))]
    return {
        "arrays": {
            "thumbnails": np.stack([np.full((4, 4, 1), 20 * number % 256, np.uint8) for number in range(len(pairs))])
        },
        "numbers": {
            "indices": [100 + number for number in range(len(pairs))],
            "labels": [row for row, _ in pairs],
            "predictions": [column for _, column in pairs],
            "confidences": [0.5 + 0.01 * number for number in range(len(pairs))],
        },
    }


def hardest_images(epoch: int) -> dict[str, Any]:
    draw = np.random.default_rng(epoch)
    return {
        "arrays": {
            "source": draw.random((2, 1, 4, 4), dtype=np.float32),
            "relevance": draw.normal(size=(2, 1, 4, 4)).astype(np.float32),
        },
        "numbers": {
            "indices": [7, 9],
            "labels": [0, 2],
            "predictions": [1, 0],
            "confidences": [0.9, 0.7],
            "true_probabilities": [0.0001, 0.2],
            "losses": [9.21 - epoch, 1.61],
            "method": "gradient",
            "scale_limits": [2.0, 2.0],
        },
    }


def leaderboard_record() -> dict[str, Any]:
    """Return an evaluation of three methods and two controls; deconvnet is worse than a control by selectivity."""
    values = {
        "selectivity": {"gradient": 1.0, "deconvnet": 3.5, "deeplift": 0.9, "random": 3.0, "constant": 4.0},
        "continuity": {"gradient": 0.3, "deconvnet": 0.1, "deeplift": None, "random": 0.9, "constant": 0.0},
    }
    methods = list(values["selectivity"])
    about = {
        "options": {"output": "logit"},
        "asks": "is it good?",
        "is_higher_better": False,
        "low": None,
        "high": None,
    }
    rows = [
        {
            "method": method,
            "metric": metric,
            "value": value,
            "low": None if value is None else value - 0.1,
            "high": None if value is None else value + 0.1,
            "images": 20,
            "beside": {},
        }
        for metric, line in values.items()
        for method, value in line.items()
    ]
    share = [0.0, 0.5, 1.0]
    return {
        "images": 20,
        "seed": 0,
        "methods": methods,
        "metrics": {
            "selectivity": about | {"name": "selectivity", "won_by": []},
            "continuity": about | {"name": "continuity", "won_by": ["constant"]},
        },
        "rows": rows,
        "best": {"selectivity": "deeplift", "continuity": "deconvnet"},
        "comparisons": [
            {"metric": "selectivity", "method": "gradient", "other": "deeplift", "difference": 0.1, "p": 0.4},
            {"metric": "selectivity", "method": "deconvnet", "other": "deeplift", "difference": 2.6, "p": 0.001},
        ],
        "curves": {f"selectivity, {m}": {"share": share, "most": [9.0, 1.0, 0.0], "least": [9, 8, 0]} for m in methods},
        "refused": {"lrp.epsilon": "no rule for it"},
        "timing": {"seconds": {}},
    }


def write_run(folder: Path, classes: tuple[str, ...] = CLASSES, **changes: Any) -> Store:
    """Write all files of a run over two epochs that the report reads."""
    store = Store(folder)
    store.begin(run_record(classes, **changes))
    for epoch in EPOCHS:
        store.add_metrics(metrics_line(epoch))
        keep(store, "confusion_matrix", epoch, png(), numbers={"counts": COUNTS[epoch], "classes": list(classes)})
        keep(store, "confusion_matrix", epoch, name="images", **cell_images(COUNTS[epoch]))
        keep(store, "hardest", epoch, png(), **hardest_images(epoch))
        keep(store, "saliency", epoch, png(50 * epoch))
    keep(store, "my_hook", 1, png(77))
    keep(store, "my_hook", 1, png(78), name="more")
    keep(store, "prototypes", 2, png(99))
    keep(store, "leaderboard", 2, png(), numbers=leaderboard_record())
    return store


def data_of(page: str) -> dict[str, Any]:
    """Return the JSON data of the page's scripts, with `kind` and `data` of each section."""
    found = re.findall(r'<script type="application/json" id="data(?:-([^"]*))?">(.*?)</script>', page, re.DOTALL)
    parts = {html.unescape(name): json.loads(text) for name, text in found}
    whole = parts.pop("")
    assert list(parts) == list(whole["sections"])
    sections = {name: {"kind": whole["sections"][name], "data": data} for name, data in parts.items()}
    return {**whole, "sections": sections}
