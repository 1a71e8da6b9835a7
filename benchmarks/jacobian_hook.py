"""Time the hook `jacobian_classes_all` with and without the native kernel: `python benchmarks/jacobian_hook.py SAVE`.

SAVE is the save folder of a finished run, whose best weights and test images are used. The hook runs on all test images
in one process and one thread, alternating between the generic algorithms and the native kernel, and the fastest of
several rounds counts, in CPU seconds. Writes `jacobian_hook.json` to FOLDER (default: `benchmarks/results`). The exit
code is 1 if the native kernel takes more than a third of the time.
"""

import argparse
import json
import os
from pathlib import Path
from time import process_time

import torch
from jacobian import without_native
from jacobian_networks import ROOT

import pellucid
from pellucid.data import Request, load_data
from pellucid.hooks import Scene
from pellucid.hooks.jacobian_classes_all import JacobianClassesAll
from pellucid.storage.runs import load_run

MOST_SHARE = 1 / 3
"""Bound on the time with the native kernel divided by the time without it."""


def scene(save: Path, limit: int | None) -> Scene:
    """Return the end of the run: its best weights, the test images and their logits."""
    run = load_run(save)
    splits = load_data(str(run.config["dataset"]), Request(save / "data"), limit_test=limit)
    with torch.no_grad():
        logits = torch.cat([run.model(splits.test.floats(part)) for part in torch.arange(len(splits.test)).split(500)])
    device = torch.device("cpu")
    return Scene(2, run.model, device, splits.test, logits, run.classes, splits.title, seed=0)


def seconds(end: Scene) -> tuple[float, float]:
    """Return the CPU seconds of the hook, and the sum of its mean absolute Jacobian."""
    started = process_time()
    (artifact,) = JacobianClassesAll().run(end)
    took = process_time() - started
    return took, float(artifact.arrays["mean_absolute_jacobian"].sum())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("save", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="number of test images (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pellucid.build_native()
    end = scene(options.save, options.images)
    times: dict[str, list[float]] = {"generic": [], "native": []}
    sums: dict[str, float] = {}
    for _ in range(options.rounds):
        with without_native():
            took, sums["generic"] = seconds(end)
        times["generic"].append(took)
        took, sums["native"] = seconds(end)
        times["native"].append(took)
    generic, native = min(times["generic"]), min(times["native"])
    print(
        f"{len(end.test):,} images: {generic:.1f} s without the kernel, {native:.1f} s with it: {native / generic:.3f}"
    )
    record = {"images": len(end.test), "seconds": times, "sums": sums, "load": os.getloadavg()}
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "jacobian_hook.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(native > MOST_SHARE * generic)


if __name__ == "__main__":
    main()
