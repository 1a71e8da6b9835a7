"""Evaluate a model on every image of a set."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.isolation import exclusive
from pellucid.core.types import Logits
from pellucid.training.distributed import World

__all__ = ["Score", "evaluate", "score"]

IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0 to 1)."""

    loss: float
    accuracy: float


def evaluate(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    world: World | None = None,
    indices: Tensor | None = None,
) -> Logits:
    """Compute the logits of all images, or of those at `indices`, in order, on the CPU, in every process.

    The processes share the batches without padding. The composition of a batch does not depend on the number of
    processes, so neither do the logits. The model's mode is restored.
    """
    world = world or World()
    chosen = torch.arange(len(images), device="cpu") if indices is None else indices
    logits: torch.Tensor | None = None
    with exclusive():
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            with torch.no_grad():  # not inference mode: a model may keep a tensor for its next training step
                for number, batch in enumerate(chosen.split(IMAGES_AT_ONCE)):
                    # every process runs at least one batch, to learn the number of logits
                    if number % world.size == world.rank or logits is None:
                        part = model(images.floats(batch).to(device)).float().cpu()
                        logits = part.new_zeros(len(chosen), part.shape[1]) if logits is None else logits
                        if number % world.size == world.rank:
                            logits[number * IMAGES_AT_ONCE :][: len(batch)] = part
        finally:
            for module, training in modes:
                module.training = training
    assert logits is not None, "image sets are never empty"
    return world.sum(logits.clone())  # each process filled its own rows, the others are zero


def score(logits: Logits, images: ImageSet) -> Score:
    """Compute loss and accuracy from the `logits` of `images`."""
    loss = F.cross_entropy(logits.double(), images.labels).item()
    return Score(loss, (logits.argmax(1) == images.labels).double().mean().item())
