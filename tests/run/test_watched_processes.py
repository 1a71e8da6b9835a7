"""`pellucid.watch` in a distributed training: the process of rank 0 draws, and no process trains differently."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pellucid

PROCESSES = 2


def train(rank: int, folder: str, is_watched: bool) -> None:
    """Train for two epochs in one of the processes, and keep its weights."""
    torch.set_num_threads(1)
    place = Path(folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )
    model = DistributedDataParallel(body)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images, labels = torch.rand(48, 1, 6, 6), torch.arange(48) % 3
    own = slice(rank, None, PROCESSES)
    hooks = "confusion_matrix,saliency"
    test, save = (images[:24], labels[:24]), place / "save"
    watcher = pellucid.watch(model, test, save=save, hooks=hooks, budget="small") if is_watched else None
    for _ in range(2):
        loss = F.cross_entropy(model(images[own]), labels[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watcher is not None:
            watcher.epoch(train_loss=loss)
    if watcher is not None:
        watcher.close()
    torch.save({"weights": body.state_dict(), "draw": torch.rand(2)}, place / f"rank_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_rank_0_draws_and_every_process_trains_as_before(tmp_path: Path) -> None:
    kept = {}
    for name, is_watched in (("watched", True), ("plain", False)):
        (tmp_path / name).mkdir()
        mp.spawn(train, (str(tmp_path / name), is_watched), nprocs=PROCESSES)
        kept[name] = [torch.load(tmp_path / name / f"rank_{rank}.pt") for rank in range(PROCESSES)]
    for watched, plain in zip(kept["watched"], kept["plain"], strict=True):
        assert all(torch.equal(value, plain["weights"][key]) for key, value in watched["weights"].items())
        assert torch.equal(watched["draw"], plain["draw"])
    save = tmp_path / "watched" / "save"
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    manifest = json.loads((save / "manifest.json").read_text())
    assert {(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"] if entry["hook"] == "saliency"} == {
        ("saliency", epoch) for epoch in (0, 1, 2)
    }
    assert [failed["hook"] for failed in manifest["failures"]] == []
    record = json.loads((save / "run.json").read_text())
    assert (record["status"], record["model"]["name"]) == ("finished", "Sequential")
    assert len(list((save / "logs").glob("events*"))) == 1
