"""Watch your own training loop, here with autocast and optionally `torch.compile`.

python examples/watch_a_training_loop.py [FOLDER] [--compile]

Figures and report.html are written to FOLDER (default: save/watched). Run it again to continue in the same folder.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pellucid

EPOCHS = 2
HOOKS = "confusion_matrix,saliency,explanations"
"""A few fast hooks; by default, more of them run."""
HELD_OUT = 300


def main(folder: Path, is_compiled: bool) -> None:
    """Train a small network on scikit-learn's digits in mixed precision."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 4 * 4, 10)),
    )
    model: nn.Module = torch.compile(network) if is_compiled else network  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    test = (images[:HELD_OUT], labels[:HELD_OUT])
    with pellucid.watch(model, test, classes=list("0123456789"), save=folder, hooks=HOOKS, budget="small") as watcher:
        for epoch in range(EPOCHS):
            loss = train_one_epoch(model, optimizer, images[HELD_OUT:], labels[HELD_OUT:])
            watcher.epoch(train_loss=loss, learning_rate=optimizer.param_groups[0]["lr"])
            print(f"epoch {epoch + 1}: loss {loss:.3f}")


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """Train on all images once, in batches of 64; returns the mean loss."""
    model.train()
    losses = []
    for batch in torch.randperm(len(images)).split(64):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(batch))
    return sum(losses) / len(images)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--compile"]
    main(Path(words[0] if words else "save/watched"), "--compile" in sys.argv)
