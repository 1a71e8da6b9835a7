"""Speed of explaining MNIST to disk: compared with the same work in memory, and with two processes.

Part of `scale.py`.
"""

import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from jacobian_hooks import trained
from safetensors.torch import save_file
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.data._load import load_data
from pellucid.data._source import Request
from pellucid.models import build_model
from pellucid.run.to_disk.explain_to_disk import explain_to_disk

__all__ = ["METHODS", "Material", "compare_memory", "compare_processes", "mark_times"]

METHODS = ("gradient", "lrp.epsilon", "integrated_gradients")
SHARD = 64
"""Images per shard, and per batch in memory."""
SMALL_SHARD = 32
"""Images per shard where two processes share few images, so that the end of the slower one costs little."""
SLICES = 5


class Material:
    """MNIST and a `small_cnn` that was trained on it for 200 steps; loaded on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = load_data("mnist", Request(Path(tempfile.mkdtemp()), mirrors=(str(folder),)))
        self.model: nn.Module = trained(data)
        self.pixels, self.labels = data.test.pixels, data.test.labels


def network() -> nn.Module:
    """Build the network that the processes load."""
    return build_model("small_cnn", (1, 28, 28), 10)


def mark_times(out: Path) -> list[float]:
    """Return the times at which the shards of a store were completed, in seconds, ascending."""
    return sorted(
        mark.stat().st_mtime_ns / 1e9 for mark in (out / "completed").glob("c.*") if mark.suffix != ".partial"
    )


def compare_memory(material: Material, count: int) -> dict[str, Any]:
    """Explain slices of the images to disk and in memory in turn; return the times, and those of single shards."""
    readings: list[dict[str, float]] = []
    shard_seconds: list[float] = []
    for number in range(SLICES):
        part = slice(number * count // SLICES, (number + 1) * count // SLICES)
        pixels, labels = material.pixels[part], material.labels[part]
        with tempfile.TemporaryDirectory() as folder:
            out, reading = Path(folder, "maps.zarr"), {}
            for way in ("disk", "memory") if number % 2 else ("memory", "disk"):
                wall, cpu = perf_counter(), process_time()
                if way == "memory":
                    _in_memory(material.model, pixels)
                else:
                    explain_to_disk(material.model, (pixels, labels), out, methods=METHODS, shard=SHARD, threads=1)
                reading |= {f"{way}_wall": perf_counter() - wall, f"{way}_cpu": process_time() - cpu}
            shard_seconds += [round(after - before, 4) for before, after in pairwise(mark_times(out))]
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        readings.append({**reading, "bytes_per_image": size / len(pixels)})
        print(f"  slice {number + 1}: " + ", ".join(f"{name} {one:.1f} s" for name, one in reading.items()), flush=True)
    speed = {way: count / sum(one[f"{way}_wall"] for one in readings) for way in ("disk", "memory")}
    ratios = {kind: median(one[f"memory_{kind}"] / one[f"disk_{kind}"] for one in readings) for kind in ("wall", "cpu")}
    return {
        "images": count,
        "images_per_second": speed,
        "speed_ratio": ratios["wall"],
        "speed_ratio_cpu": ratios["cpu"],
        "readings": readings,
        "shard_seconds": shard_seconds,
    }


def _in_memory(model: nn.Module, pixels: Tensor) -> list[Any]:
    """Explain batches of the size that is used for the store, and keep the results."""
    analyzers = [create_analyzer(name, model) for name in METHODS]
    kept = []
    for batch in pixels.split(SHARD):
        x = batch.float() / 255
        kept.append([analyzer.explain(x) for analyzer in analyzers])
    return kept


def compare_processes(material: Material, count: int, rounds: int) -> dict[str, Any]:
    """Explain images by one and by two processes in turn; return images per second, from the first mark to the last."""
    readings: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_file({name: one.contiguous() for name, one in material.model.state_dict().items()}, weights)
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        for number in range(rounds):
            for processes, speeds in readings.items():
                out = Path(folder, f"{number}_{processes}.zarr")
                flags = ["--weights", weights, "--data-dir", folder, "--limit", count, "--out", out]
                run = subprocess.run(
                    [*_command(material.folder, processes), *map(str, flags)],
                    check=False, capture_output=True, text=True, env=environment,
                )  # fmt: skip
                assert run.returncode == 0, run.stderr
                times = mark_times(out)
                speeds.append((len(times) - 1) * SMALL_SHARD / (times[-1] - times[0]))
                print(f"  {processes} process(es): {speeds[-1]:.1f} images/s", flush=True)
    ratios = [two / one for one, two in zip(readings[1], readings[2], strict=True)]
    return {"images": count, "images_per_second": readings, "ratios": ratios, "speed_ratio": median(ratios)}


def _command(data: Path, processes: int) -> list[str]:
    """Return the command that explains MNIST, without the weights and the store."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    flags = {
        "--model": "scale_speed:network", "--dataset": "mnist", "--mirror": str(data), "--methods": ",".join(METHODS),
        "--shard": str(SMALL_SHARD), "--threads": "1",
    }  # fmt: skip
    launcher = [] if processes == 1 else torchrun
    return [sys.executable, "-m", *launcher, "pellucid", "explain", *(part for pair in flags.items() for part in pair)]
