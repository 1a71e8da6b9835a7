"""Stores under load: memory over many images, the start on a finished store, and kills.

Part of `scale.py`.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.run.to_disk.explain_to_disk import explain_to_disk, prepared
from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.request import Request
from pellucid.run.to_disk.work import finish_shards
from pellucid.storage.sharded import Address, ShardedStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import killed_process
from killed_process import contents, marks

__all__ = ["killed", "memory", "start"]


class Generated:
    """Images of 8×8 pixels that are drawn when they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= self.count:
            raise IndexError(index)
        return (torch.arange(64).add(index) * 0.618 % 1).view(1, 8, 8), index % 2


def tiny() -> nn.Module:
    """Build a network that takes next to no time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def resident() -> float:
    """Return the memory that this process occupies, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def memory(count: int) -> dict[str, Any]:
    """Explain generated images in a new process; return its memory from the first mark on."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_sampled, args=(count, sender))
    process.start()
    samples: list[tuple[int, float]] = receiver.recv()
    process.join()
    sizes = [size for _, size in samples]
    return {"images": count, "growth_mb": max(sizes) - sizes[0], "samples": samples[:: 1 + len(samples) // 20]}


def _sampled(count: int, sender: Connection) -> None:
    """Send (complete shards, MB) as often as a shard is completed."""
    torch.set_num_threads(1)
    samples: list[tuple[int, float]] = []
    is_over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "maps.zarr")

        def sample() -> None:
            while not is_over.wait(0.1):
                complete = marks(out)
                if complete and (not samples or samples[-1][0] != complete):
                    samples.append((complete, round(resident(), 1)))

        thread = threading.Thread(target=sample)
        thread.start()
        explain_to_disk(tiny(), Generated(count), out, methods=["gradient"], threads=1)
        is_over.set()
        thread.join()
    sender.send(samples)


def start(shards: int) -> dict[str, Any]:
    """Mark every shard of a local store as complete, and time a process that finds nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "maps.zarr")
        request = Request(methods=["gradient"], shard=1, threads=1)
        explain_to_disk(tiny(), Generated(shards), out, methods=["gradient"], shard=1, threads=1, limit=1)
        mark = (out / "completed" / "c.0").read_bytes()
        out = Path(folder, "finished.zarr")
        address, steps = Address.of(out), {"mean": None, "std": None, "preprocess": None}
        seconds, listing = 0.0, 0.0
        for is_finished in (False, True):
            begun = time.perf_counter()
            with prepared(tiny(), Generated(shards), address, request, Place(), classes=None, steps=steps) as job:
                store = ShardedStore.join(address, job.layout)
                if not is_finished:
                    (out / "completed").mkdir(exist_ok=True)
                    for number in range(shards):
                        (out / "completed" / f"c.{number}").write_bytes(mark)
                    continue
                assert finish_shards(store, job, Place()).shards == 0
                seconds = time.perf_counter() - begun
                begun = time.perf_counter()
                assert len(store.completed()) == shards
                listing = time.perf_counter() - begun
    return {"shards": shards, "seconds": seconds, "listing_seconds": listing}


def killed(kills: int) -> dict[str, Any]:
    """Kill all processes of a job again and again, and compare the finished store with an undisturbed one."""
    draws, wrong = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, out = Path(folder, "undisturbed.zarr"), Path(folder, "maps.zarr")
        killed_process.explain(undisturbed)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            del os.environ[name]
        total, complete = marks(undisturbed), []
        for number in range(kills):
            processes = draws.randint(1, 3)
            program = [sys.executable, killed_process.__file__, str(out), "99", str(Path(folder, "never"))]
            alive = []
            for rank in range(processes):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                alive.append(subprocess.Popen(program, env=os.environ | place))
            aim = 1 + (number * (total - 2)) // kills
            while marks(out) < aim and alive[0].poll() is None:
                time.sleep(0.002)
            time.sleep(draws.random() * 0.05)
            for one in alive:
                one.kill()
                one.wait()
            complete.append(marks(out))
            print(f"  kill {number + 1}: {processes} process(es), {complete[-1]} of {total} shards", flush=True)
        killed_process.explain(out)
        first, second = contents(undisturbed), contents(out)
        wrong = sorted(name for name in {**first, **second} if first.get(name) != second.get(name))
    return {"kills": kills, "complete_after_kills": complete, "differing_files": wrong}
