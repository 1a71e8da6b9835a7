"""Small networks trained on weighted or reduced training sets, for the benchmarks of influence."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from pellucid.core.contracts import ImageSet
from pellucid.core.seeding import generator
from pellucid.data import Request, load_data
from pellucid.models import MODELS

__all__ = ["Weights", "load_images", "logits_of", "margins", "network", "train_network"]

Weights = dict[str, Tensor]

LEARNING_RATE, BATCH_SIZE = 0.01, 64


def load_images(data: str, train: int, test: int) -> tuple[ImageSet, ImageSet]:
    """Load MNIST from its files in the folder `data`: the first stratified training and test images."""
    request = Request(Path(data), mirrors=(data,))
    splits = load_data("mnist", request, limit_train=train + train // 11 + 1, limit_test=test)
    return splits.train[:train], splits.test


def network() -> nn.Module:
    """Build pellucid's default network."""
    return MODELS["small_cnn"](channels=1, classes=10, image_size=(28, 28))


def train_network(
    images: Tensor, labels: Tensor, seed: int, *, epochs: int, weights: Tensor | None = None, keep: bool = False
) -> list[Weights]:
    """Train from a seed and return the final state dict, or with `keep` those of all epochs.

    `weights` (image,) multiply the losses; the batches and the divisor of the mean are the same with any weights.
    """
    torch.manual_seed(seed)
    model, order = network().train(), generator(seed, "order")
    steps = len(images) // BATCH_SIZE
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, epochs * steps + 1)
    states = []
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(BATCH_SIZE)[:steps]:
            losses = F.cross_entropy(model(images[batch]), labels[batch], reduction="none")
            optimizer.zero_grad()
            (losses if weights is None else losses * weights[batch]).mean().backward()
            optimizer.step()
            schedule.step()
        if keep:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states or [model.state_dict()]


def logits_of(state: Weights, images: Tensor) -> Tensor:
    """Return the logits of a trained network in eval mode."""
    model = network().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(500)])


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 − p)) for the probabilities of the labels."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.logsumexp(1)
