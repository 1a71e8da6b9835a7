"""Translate metric names to those of the learning curves."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["renamed"]

PARTS = {"train": "train", "training": "train"} | dict.fromkeys(("val", "valid", "validation", "eval"), "validation")
SCORES = {"loss": "loss", "acc": "accuracy", "accuracy": "accuracy"}


def renamed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Rename losses and accuracies to the names that `Watcher.epoch` knows; other metrics keep theirs.

    The mean over the epoch (`train_loss_epoch`) takes precedence over the last step (`train_loss_step`).

    >>> renamed({"val_acc": 0.5, "train/loss": 0.2, "eval_f1": 0.4})
    {'validation_accuracy': 0.5, 'train_loss': 0.2, 'eval_f1': 0.4}
    >>> renamed({"train_loss_step": 0.9, "train_loss": 0.9, "train_loss_epoch": 0.3})
    {'train_loss': 0.3}
    """
    names: dict[str, Any] = {}
    for name, value in metrics.items():
        if name.endswith("_step") and f"{name.removesuffix('_step')}_epoch" in metrics:
            continue
        part, _, score = re.sub(r"_epoch$", "", name).replace("/", "_").partition("_")
        is_curve = part in PARTS and score in SCORES
        names[f"{PARTS[part]}_{SCORES[score]}" if is_curve else name] = value
    return names
