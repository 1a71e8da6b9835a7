"""Cost of `pellucid.watch` with the budget `small`, as a share of an epoch of training.

A ResNet-18 is trained on 32×32 color images. The time of an epoch of 50,000 images (the size of CIFAR-10) is
extrapolated from a few steps. Steps and watched epochs alternate in one process, and medians are reported. The network
has two variants: torchvision's, made for 224×224, which is very fast because it shrinks these images to 1×1, and
the usual one for 32×32, with a 3×3 stem and without the first pooling.

    python benchmarks/watch.py [--rounds 3] [--steps 20]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import pellucid

IMAGES, BATCH_SIZE, CLASSES = 50_000, 128, 10
BOUND = 0.1
"""Largest allowed cost of the hooks, as a share of an epoch."""


def networks() -> dict[str, nn.Module]:
    """Return the networks by name."""
    plain, small = (torchvision.models.resnet18(weights=None, num_classes=CLASSES) for _ in range(2))
    small.conv1, small.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return {"torchvision's stem": plain, "3×3 stem": small}


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return colored noise with a class-dependent stripe, so that there is something to learn."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, 3, 32, 32, generator=draws) * 0.5
    for label in range(CLASSES):
        pixels[labels == label, label % 3, 3 * label : 3 * label + 3] += 0.5
    return pixels, labels


def measure(model: nn.Module, rounds: int, steps: int, save: Path) -> dict[str, Any]:
    """Alternate training steps and watched epochs; return seconds and their ratio."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    train, test = images(steps * BATCH_SIZE), images(2_000)
    epochs, hooks = [], []
    watcher = pellucid.watch(model, test, save=save, budget="small", every=1)
    for _ in range(rounds):
        model.train()
        started = time.perf_counter()
        for x, y in zip(train[0].split(BATCH_SIZE), train[1].split(BATCH_SIZE), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        epochs.append((time.perf_counter() - started) / steps * (IMAGES / BATCH_SIZE))
        started = time.perf_counter()
        watcher.epoch()
        hooks.append(time.perf_counter() - started)
    watcher.close("interrupted")  # without the end hooks, which run once for a whole training
    epoch, hook = statistics.median(epochs), statistics.median(hooks)
    return {"epoch_seconds": epoch, "hook_seconds": hook, "share": hook / epoch}


def main() -> None:
    """Measure, print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    results = {}
    for name, model in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(model, options.rounds, options.steps, Path(folder) / "save")
        print(name, {key: round(value, 3) for key, value in results[name].items()}, f"bound {BOUND:.0%}")
    target = Path(__file__).parent / "results" / "watch.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"bound": BOUND, "threads": torch.get_num_threads(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
