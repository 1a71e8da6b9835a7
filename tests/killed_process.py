"""A small data set that processes explain into a store while tests kill them.

As a program, `python killed_process.py STORE RANK FILE` kills itself after three shards if it has that rank and FILE
does not exist yet.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.run.to_disk.explain_to_disk import explain_to_disk
from pellucid.storage.sharded import ShardedStore

__all__ = ["COUNT", "SHARD", "Digits", "contents", "explain", "marks", "model"]

COUNT, SHARD = 300, 8


class Digits:
    """Random images of 8×8 pixels; two of them are unreadable. A pause per image makes room for kills."""

    def __init__(self, pause: float = 0.0, on_read: Callable[[int], object] = lambda index: None) -> None:
        self.pause, self.on_read = pause, on_read
        self.pixels = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(COUNT) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in (13, 200):
            raise OSError(f"image {index} is damaged")
        time.sleep(self.pause)
        self.on_read(index)
        return self.pixels[index], int(self.labels[index])


def model(channels: int = 1, classes: int = 3, image_size: tuple[int, int] = (8, 8)) -> nn.Module:
    """Build a tiny network, always with the same weights."""
    height, width = image_size
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Linear(channels * height * width, 8), nn.ReLU(), nn.Linear(8, classes))
        return nn.Sequential(nn.Flatten(), *layers).eval()


def explain(out: Path, rank: int = 0, size: int = 1, pause: float = 0.0, **options: Any) -> None:
    """Explain the digits into a store, as one of `size` processes."""
    digits = Digits(pause, options.pop("on_read", lambda index: None))
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    settings = {"methods": ["gradient", "lrp.epsilon"], "shard": SHARD, "embeddings": True, "threads": 1} | options
    explain_to_disk(model(), digits, out, **settings)


def marks(out: Path) -> int:
    """Return the number of complete shards."""
    return len(list((out / "completed").glob("c.*[0-9]")))


def contents(out: Path) -> dict[str, Any]:
    """Return the files of a store by their relative paths, without those that killed processes left and provenance."""
    files: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".partial"
    }
    files["zarr.json"] = json.loads(files["zarr.json"])
    del files["zarr.json"]["attributes"]["provenance"]
    return files


def _die_once(dying: int, file: Path) -> None:
    """Let the process with rank `dying` kill itself before it writes its fourth shard, unless `file` exists."""
    write, written = ShardedStore.write, []

    def writing(*arguments: Any) -> None:
        if len(written) == 3 and int(os.environ["RANK"]) == dying and not file.exists():
            file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments)
        written.append(True)

    ShardedStore.write = writing


if __name__ == "__main__":
    _die_once(int(sys.argv[2]), Path(sys.argv[3]))
    explain(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), pause=0.005)
