"""Explaining whole data sets to disk: `python benchmarks/scale.py --data FOLDER`.

FOLDER holds MNIST's four .gz files. Parts, all of them by default, or those of `--only`:

- `memory_speed`: three methods on MNIST with `small_cnn`, to disk and in memory in turn, one process with one thread
- `processes`: the same to disk by two processes with one thread each, compared with one (needs two free cores)
- `memory`: memory of a process over 200,000 generated images
- `start`: the start of a process on a finished store of 100,000 shards
- `ranks`: a simulation of 256 ranks with the schedule of pellucid and the times of shards of `memory_speed`
- `kills`: all processes of a job are killed `--kills N` times; the finished store equals an undisturbed one

Readings are added to the file of `--json` (default: `benchmarks/results/scale.json`). The exit code is 1 if a bound is
missed.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pellucid.run.to_disk.place import Place

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from scale_speed import Material, compare_memory, compare_processes
from scale_store import killed, memory, start

from simulated_ranks import Costs, Process, Simulation

ROOT = Path(__file__).resolve().parents[1]
IMAGES, RANKS, SLOW, SHARD = 1_000_000, 256, 5, 64

BOUNDS: tuple[tuple[str, str, str, str, float], ...] = (
    ("memory_speed", "speed_ratio", "speed to disk / in memory, wall time", "≥", 0.9),
    ("memory_speed", "speed_ratio_cpu", "speed to disk / in memory, CPU time", "", 0.0),
    ("processes", "speed_ratio", "speed of two processes / one", "≥", 1.8),
    ("memory", "growth_mb", "growth of memory, MB", "≤", 30.0),
    ("start", "seconds", "start on a finished store, s", "≤", 5.0),
    ("ranks", "efficiency", "speed of 256 ranks / their summed speed", "≥", 0.9),
    ("ranks", "efficiency_listing", "the same, with the cost of listings", "", 0.0),
    ("ranks", "efficiency_joined", "two jobs of 128 ranks, the second one later", "", 0.0),
    ("kills", "differences", "files that differ after kills", "≤", 0.0),
)
"""Part, reading, description, and the bound, if there is one."""


def simulate(seconds: list[float], costs: Costs, seed: int, joins_after: float = 0.0) -> float:
    """Return the speed of 256 ranks, divided by their summed speed; the second half of them may join later."""
    draws, count = random.Random(seed), -(-IMAGES // SHARD)
    mean = sum(seconds) / len(seconds)
    parts = [(RANKS, 0.0)] if not joins_after else [(RANKS // 2, 0.0), (RANKS // 2, joins_after * mean)]
    ranks = [Process(Place(rank, size), 1.0, begins) for size, begins in parts for rank in range(size)]
    for slow in draws.sample(ranks, SLOW):
        slow.speed = 0.5
    outcome = Simulation(count, lambda: draws.choice(seconds), costs, seed).run(ranks)
    assert outcome.done.all()
    # the work that the ranks could have done from their start to the end
    possible = sum(rank.speed * (outcome.seconds - rank.begins) for rank in ranks)
    return count * mean / possible


def ranks(seconds: list[float]) -> dict[str, Any]:
    """Simulate 256 ranks that explain a million images, five of them slow, where one shard in a hundred is lost."""
    mean = sum(seconds) / len(seconds)
    lost = Costs(lost=0.01, restart=mean)
    # an object store that lists 1,000 marks in 50 ms
    listing = Costs(lost=0.01, restart=mean, listing=0.05, mark=5e-5, check=0.02, between_listings=10.0)
    plain = [simulate(seconds, lost, seed) for seed in range(5)]
    return {
        "shard_seconds_mean": mean,
        "efficiencies": plain,
        "efficiency": min(plain),
        "efficiency_listing": min(simulate(seconds, listing, seed) for seed in range(5)),
        "efficiency_joined": min(simulate(seconds, lost, seed, 20.0) for seed in range(5)),
    }


def measure(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Measure the chosen parts, and write the record after each."""
    material: list[Material] = []

    def loaded() -> Material:
        if not material:
            if options.data is None:
                raise SystemExit("memory_speed and processes need MNIST: pass --data FOLDER")
            material.append(Material(options.data))
        return material[0]

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "memory_speed": lambda: compare_memory(loaded(), options.images),
        "processes": lambda: compare_processes(loaded(), options.images // 2, options.rounds),
        "memory": lambda: memory(options.generated),
        "start": lambda: start(options.shards),
        "ranks": lambda: ranks(record.get("memory_speed", {}).get("shard_seconds") or [0.6]),
        "kills": lambda: killed(options.kills),
    }
    chosen = options.only.split(",") if options.only else list(parts)
    unknown = sorted(set(chosen) - set(parts))
    if unknown:
        raise SystemExit(f"unknown parts {', '.join(unknown)}; choose from {', '.join(parts)}")
    for name in chosen:
        print(name, flush=True)
        load, begun = os.getloadavg()[0], time.perf_counter()
        reading = parts[name]()
        if name == "kills":
            reading["differences"] = len(reading["differing_files"])
        record[name] = {**reading, "load": load, "benchmark_seconds": time.perf_counter() - begun}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        # a line per part: the times of shards are many
        lines = (f" {json.dumps(part)}: {json.dumps(one)}" for part, one in record.items())
        options.json.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def show(record: dict[str, Any]) -> bool:
    """Print the table of all readings; return False if a bound is missed."""
    is_fine = True
    for part, name, meaning, sign, bound in BOUNDS:
        value = record.get(part, {}).get(name)
        if value is None:
            continue
        passed = not sign or (value >= bound if sign == "≥" else value <= bound)
        is_fine &= passed
        limit = f"{sign} {bound:g}" if sign else ""
        verdict = ("pass" if passed else "missed") if sign else ""
        print(f"| {meaning:46} | {value:8.3g} | {limit:7} | {verdict:6} |")
    return is_fine


def main() -> None:
    """Measure, write the readings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST's files")
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--images", type=int, default=10_000, help="MNIST images; half of them for processes")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of processes")
    parser.add_argument("--generated", type=int, default=200_000, help="images of memory")
    parser.add_argument("--shards", type=int, default=100_000, help="shards of start")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "scale.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = json.loads(options.json.read_text("utf-8")) if options.json.exists() else {}
    measure(options, record)
    sys.exit(0 if show(record) else 1)


if __name__ == "__main__":
    main()
