"""Retrain a network from scratch, briefly, as ROAR needs many times."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from pellucid.core.isolation import isolated, preserved_random_state
from pellucid.core.seeding import seed_everything

__all__ = ["retrain_and_predict"]

EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 128, 0.01


def retrain_and_predict(model: nn.Module, images: Tensor, labels: Tensor, tests: Tensor, seed: int) -> Tensor:
    """Reinitialize a copy of `model`, train it on `images`, and return its logits for `tests`.

    Trains for three epochs with AdamW and a one-cycle schedule; all draws follow from `seed`. `model` is not modified.
    """
    # torch's optimizers create their step counters on the default device
    with isolated(), preserved_random_state(), torch.device(images.device):
        seed_everything(seed)
        # an evaluated model is frozen, and so is its copy
        network = copy.deepcopy(model).train().requires_grad_(True)
        for module in network.modules():
            # torch's layers and most others have this method; other modules keep their weights
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        labels = labels.to(images.device)
        steps = max(len(images) // BATCH_SIZE, 1)
        optimizer = AdamW(network.parameters(), lr=LEARNING_RATE)
        schedule = OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * steps + 1)
        for _ in range(EPOCHS):
            order = torch.randperm(len(images), device="cpu").to(images.device)
            # without the incomplete last batch
            for batch in order.split(BATCH_SIZE)[:steps]:
                optimizer.zero_grad()
                F.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            return torch.cat([network.eval()(part) for part in tests.split(500)])
