"""`pellucid.watch` in a distributed training: the process of rank 0 draws, and no process trains differently."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from programs import IMPORTED

from watched_process import PROCESSES, train_both


@pytest.mark.slow
def test_rank_0_draws_and_every_process_trains_as_before(tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload(IMPORTED)
    mp.start_processes(train_both, (str(tmp_path),), nprocs=PROCESSES, start_method="forkserver")
    for rank in range(PROCESSES):
        watched, plain = (torch.load(tmp_path / f"{name}_{rank}.pt") for name in ("watched", "plain"))
        assert all(torch.equal(value, plain["weights"][key]) for key, value in watched["weights"].items())
        assert torch.equal(watched["draw"], plain["draw"])
    save = tmp_path / "save"
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
