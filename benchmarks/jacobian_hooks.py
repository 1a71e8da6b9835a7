"""Measure what the native kernel saves in hooks and in maps of all classes: `python benchmarks/jacobian_hooks.py DATA`.

DATA holds MNIST's four .gz files. One process, one thread, CPU time, the median of several rounds with and without the
kernel in turn. The network is `small_cnn` after 200 steps of training. Writes `jacobian_hooks.json` to FOLDER (default:
`benchmarks/results`). The exit code is 1 if `jacobian_classes_all` takes more than a third of its time without it.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid.core.contracts import DataSplits
from pellucid.data._load import load_data
from pellucid.data._source import Request
from pellucid.hooks import HOOKS, Scene
from pellucid.jacobians._native.decision import decided
from pellucid.models import build_model
from pellucid.training.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
MOST_SHARE = 1 / 3
"""Bound on the time of `jacobian_classes_all` with the kernel divided by the time without it."""
ROUNDS = 3
METHODS = {"gradient": {}, "input_x_gradient": {}, "integrated_gradients": {"steps": 16}, "smoothgrad": {"samples": 16}}


def trained(data: DataSplits) -> nn.Module:
    """Train for 200 steps, after which about as many units are active as at the end of a run."""
    torch.manual_seed(0)
    model = build_model("small_cnn", data.train.image_shape, len(data.classes)).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(200):
        batch = torch.randint(len(data.train), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(data.train.floats(batch)), data.train.labels[batch]).backward()
        optimizer.step()
    return model.eval()


def compare(name: str, work: Callable[[], object]) -> tuple[float, float]:
    """Print and return the CPU time of `work` without and with the kernel, in seconds."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for is_native, taken in times.items():
            with decided(lambda choice=is_native: choice):
                started = process_time()
                work()
            taken.append(process_time() - started)
    before, after = (median(taken) for taken in times.values())
    print(f"{name:32s} {before:8.3f} s {after:8.3f} s {before / after:6.2f} ×", flush=True)
    return before, after


def main() -> None:
    """Measure the Jacobian hooks on all test images, and maps of all classes of 64 images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    mirror = str(options.data)
    record: dict[str, Any] = {"load": os.getloadavg()[0]}
    torch.set_num_threads(1)
    pellucid.build_native()
    with tempfile.TemporaryDirectory() as folder:
        data = load_data("mnist", Request(Path(folder), mirrors=(mirror,)))
        model = trained(data)
        logits = evaluate(model, data.test, CPU)
        scene = Scene(1, model, CPU, data.test, logits, data.classes, data.title, seed=0)
        print(f"{'':32s} {'generic':>10s} {'native':>10s}")
        for name in ("jacobian_classes", "jacobian_classes_all"):
            hook = HOOKS[name]()
            record[name] = compare(name, lambda hook=hook: list(hook.run(scene)))
        images = data.test.floats(slice(64))
        for name, settings in METHODS.items():
            analyzer = pellucid.create_analyzer(name, model, **settings)
            title = f"{name}, all classes"
            record[title] = compare(title, lambda analyzer=analyzer: analyzer.analyze(images, "all"))
    text = json.dumps({"torch": torch.__version__, **record}, indent=1)
    (options.folder / "jacobian_hooks.json").write_text(text + "\n", encoding="utf-8")
    before, after = record["jacobian_classes_all"]
    if after > MOST_SHARE * before:
        raise SystemExit(f"missed: jacobian_classes_all takes {after / before:.2f} of its time; bound {MOST_SHARE:.2f}")


if __name__ == "__main__":
    main()
