"""A small task for the trainers of other libraries: three classes of striped images, as tensors."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CLASSES", "images_and_labels", "lines_of", "network", "record_of", "same_weights"]

CLASSES = ["top", "middle", "bottom"]


def images_and_labels(count: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 0.5
    for index, label in enumerate(labels.tolist()):
        images[index, :, 2 * label : 2 * label + 2] += 0.5
    return images, labels


def network() -> nn.Module:
    """A network with batch norm and dropout, whose state a careless observer would change."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)),
            *(nn.Flatten(), nn.Linear(4 * 36, 3)),
        )


def lines_of(save: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]


def record_of(save: Path) -> dict[str, Any]:
    return json.loads((save / "run.json").read_text())


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Compare all weights and buffers, bit for bit."""
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)
