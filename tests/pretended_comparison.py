"""Models to compare, from given predictions and without any training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.report.comparison import Comparison
from pellucid.run.compared import Loaded, Outcome
from pellucid.run.comparing import _compared

__all__ = ["comparison_of", "pretended"]


def pretended(
    name: str,
    labels: np.ndarray,
    predictions: np.ndarray,
    *,
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    seed: int = 0,
    epoch: int | None = None,
    network: nn.Module | None = None,
    pixels: torch.Tensor | None = None,
    **config: Any,
) -> Loaded:
    """Return a model with given predictions; with `pixels` and `network`, it can be explained."""
    confidences = np.linspace(0.4, 0.99, len(labels))
    record = {
        "kind": "run",
        "config": {"model": "cnn", "seed": seed, "save": name, **config},
        "seed": seed,
        "epochs": 2,
        "status": "finished",
        "dataset": {
            "name": "pets",
            "title": "Pets",
            "sha256": "a",
            "classes": list(classes),
            "test_images": len(labels),
        },
        "model": {"name": config.get("model", "cnn"), "parameters": 12345},
        "versions": {"torch": "2.9"},
    }
    accuracy = float((labels == predictions).mean())
    metrics = [
        {"epoch": number, "test_loss": 2.0 / (number + 1), "test_accuracy": accuracy * number / 2, "best": number == 2}
        for number in range(3)
    ]
    return Loaded(
        folder=Path(name),
        epoch=epoch,
        weights_epoch=2 if epoch is None else epoch,
        record=record,
        metrics=metrics,
        classes=classes,
        outcome=Outcome(labels, predictions, confidences, np.where(labels == predictions, 0.1, 2.0)),
        positions=np.arange(len(labels)),
        model=network,
        images=None if pixels is None else ImageSet(pixels, torch.from_numpy(labels)),
    )


def comparison_of(*models: Loaded, methods: tuple[str, ...] = ("gradient",), images: int = 20) -> Comparison:
    """Return the comparison of pretended models."""
    return _compared(models, list(methods), images, 0)
