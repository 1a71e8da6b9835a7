"""A fresh network of a given kind, trained briefly: what ROAR asks for many times."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from pellucid.core.isolation import isolated
from pellucid.core.seeding import preserved_random_state, seed_everything

__all__ = ["train_afresh"]

EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 128, 0.01


def train_afresh(model: nn.Module, images: Tensor, labels: Tensor, tests: Tensor, seed: int) -> Tensor:
    """The logits that a copy of `model`, its weights drawn anew and trained on `images`, has for `tests`.

    Three epochs of AdamW with a one-cycle schedule; every draw follows from `seed`. `model` is left as it is.
    """
    # torch's optimizers count their steps in tensors on the default device
    with isolated(), preserved_random_state(), torch.device(images.device):
        seed_everything(seed)
        network = copy.deepcopy(model).train().requires_grad_(True)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        labels = labels.to(images.device)
        steps = max(len(images) // BATCH_SIZE, 1)
        optimizer = AdamW(network.parameters(), lr=LEARNING_RATE)
        schedule = OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * steps + 1)
        for _ in range(EPOCHS):
            order = torch.randperm(len(images), device="cpu").to(images.device)
            for batch in order.split(BATCH_SIZE)[:steps]:
                optimizer.zero_grad()
                F.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            return torch.cat([network.eval()(part) for part in tests.split(500)])
