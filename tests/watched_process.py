"""One process of a distributed training that is watched; in a file that the processes of torch can import."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pellucid

PROCESSES = 2


def train_both(rank: int, folder: str) -> None:
    """Train in one of the processes without a watcher and with one, each time from the beginning."""
    torch.set_num_threads(1)
    place = Path(folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60)
    )
    for name, is_watched in (("plain", False), ("watched", True)):
        torch.save(train(rank, place / "save" if is_watched else None), place / f"{name}_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train(rank: int, save: Path | None) -> dict[str, Any]:
    """Train for two epochs, watched if there is a folder; return the weights and the next random numbers."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )
    model = DistributedDataParallel(body)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images, labels = torch.rand(48, 1, 6, 6), torch.arange(48) % 3
    own = slice(rank, None, PROCESSES)
    hooks = "confusion_matrix,saliency"
    test = (images[:24], labels[:24])
    watcher = pellucid.watch(model, test, save=save, hooks=hooks, budget="small") if save else None
    for _ in range(2):
        loss = F.cross_entropy(model(images[own]), labels[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watcher is not None:
            watcher.epoch(train_loss=loss)
    if watcher is not None:
        watcher.close()
    return {"weights": body.state_dict(), "draw": torch.rand(2)}
