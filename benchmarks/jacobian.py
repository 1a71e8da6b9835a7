"""Compare the Jacobian engine with torch's own methods: `python benchmarks/jacobian.py [--quick] [FOLDER]`.

One process, one thread, the candidates of a case interleaved, medians of CPU time. "Native" uses the kernel that
`pellucid.build_native` compiles, "generic" is the same call without it. Public methods that take more than 1.5 times
as long as the best one in a first pass are dropped. Peak memory is measured in a process of its own for each case.
Prints two tables in Markdown, with and without the kernel, and writes `jacobian.json` to FOLDER (default:
`benchmarks/results`). The exit code is 1 if a bound is missed.

`--baseline SRC` also measures an earlier version of pellucid, whose source folder is SRC, in the same rounds; the bound
"at most 10% slower" then refers to it, and to the generic algorithms otherwise. aug-net's case needs the reference
folder (PELLUCID_SHARED). `jacobian_cost.py` plots the cost, `jacobian_ways.py` compares the algorithms.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from jacobian_networks import ROOT, SHARED, augnet, cnn, mlp, own, pooled_norms, regression, resnet, vgg
from torch import Tensor, nn
from torch.func import jacrev, vmap

import pellucid
from pellucid.errors import PellucidError
from pellucid.jacobians import jacobian_report
from pellucid.jacobians._native.decision import decided

Candidates = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """A network, a number of images, and what the Jacobian may cost."""

    name: str
    build: Callable[[], nn.Module]
    images: int
    shape: tuple[int, ...]
    most_passes: float | None = None
    """Bound on the cost in forward passes, and the aim."""
    aimed_passes: float | None = None
    least_gain: float | None = None
    """Bound on the time of the best public method divided by ours, and the aim."""
    aimed_gain: float | None = None
    is_quick: bool = False
    """True for a case of `--quick`."""
    measures_memory: bool = False

    @property
    def title(self) -> str:
        """Name and number of images."""
        return f"{self.name}, {self.images}"

    def problem(self) -> tuple[nn.Module, Tensor]:
        """Return the network with frozen weights, and random images."""
        torch.manual_seed(0)
        if self.name == "aug-net":
            model, arrays = augnet()
            return model.float().requires_grad_(False), arrays["input"].float()
        return self.build().eval().requires_grad_(False), torch.rand(self.images, *self.shape)


MNIST = (1, 28, 28)
CASES = [
    Case("CNN", cnn, 1, MNIST, is_quick=True),
    Case("CNN", cnn, 64, MNIST, 2.5, 2, 4, 5, is_quick=True),
    Case("CNN", cnn, 256, MNIST, 1.5, 1.1, 5.5, 7, measures_memory=True),
    Case("our cnn", lambda: own("cnn"), 256, MNIST, 2.5),
    Case("our small_cnn", lambda: own("small_cnn"), 256, MNIST),
    Case("conv-pool-norm", pooled_norms, 64, MNIST),
    Case("VGG-like", vgg, 16, (3, 64, 64), 2.6, None, 3.8),
    Case("ResNet-18", resnet, 16, (3, 64, 64), 5, None, 2.6, measures_memory=True),
    Case("MLP", mlp, 1, MNIST, is_quick=True),
    Case("MLP", mlp, 64, MNIST, None, None, 2.8, is_quick=True),
    Case("MLP", mlp, 256, MNIST),
    Case("regression", regression, 1, (4,), is_quick=True),
    Case("regression", regression, 256, (4,), is_quick=True),
    *([Case("aug-net", cnn, 1, (1, 256, 256))] if SHARED.is_dir() else []),
]
MOST_SLOWDOWN = 1.1
"""Bound on our time divided by that of the earlier version, or of the generic algorithms."""
MOST_OVERHEAD = 0.15
"""Bound on our time for one image minus that of the fastest public method, in ms."""
MOST_MEMORY = 150.0
"""Bound on the peak memory, beyond the output, in MB."""


def by_loop(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the Jacobian by K backward passes over the whole batch."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    rows = []
    for k in range(y.shape[1]):
        cotangent = torch.zeros_like(y)
        cotangent[:, k] = 1
        rows += torch.autograd.grad(y, leaf, cotangent, retain_graph=True)
    return torch.stack(rows, 1)


def by_batched_grads(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the Jacobian by one backward pass with `is_grads_batched`."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    cotangents = torch.eye(y.shape[1])[:, None].expand(-1, len(x), -1)
    (rows,) = torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True)
    return rows.movedim(0, 1)


def public_methods(model: nn.Module, x: Tensor) -> Candidates:
    """Return torch's methods by name, each with several chunk sizes.

    For several images, `autograd.functional.jacobian` differentiates the sum over images, to avoid computing the blocks
    between different images.
    """

    def one(image: Tensor) -> Tensor:
        return model(image[None])[0]

    calls: Candidates = {
        "loop": lambda: by_loop(model, x),
        "is_grads_batched": lambda: by_batched_grads(model, x),
        "vmap(jacrev)": lambda: vmap(jacrev(one))(x),
        "functional.jacobian": lambda: torch.autograd.functional.jacobian(
            model if len(x) == 1 else lambda images: model(images).sum(0), x
        ),
    }
    for size in (1, 5):
        calls[f"vmap(jacrev, {size} outputs)"] = lambda size=size: vmap(jacrev(one, chunk_size=size))(x)
    for size in (1, 4, 8, 16, 32):
        if size < len(x):
            calls[f"vmap(jacrev), chunk {size}"] = lambda size=size: vmap(jacrev(one), chunk_size=size)(x)
    for size in (4, 16, 64):
        if size < len(x):
            calls[f"loop, chunk {size}"] = lambda size=size: torch.cat([by_loop(model, y) for y in x.split(size)])
            calls[f"is_grads_batched, chunk {size}"] = lambda size=size: torch.cat(
                [by_batched_grads(model, part) for part in x.split(size)]
            )
    return calls


def screened(calls: Candidates) -> tuple[Candidates, float]:
    """Return at most four calls, within 1.5 times the time of the fastest one, and the seconds of a round of them."""
    times: dict[str, float] = {}
    for name, call in calls.items():
        for _ in range(2):  # the first call warms up, and shows which ones are hopeless
            started = process_time()
            call()
            times[name] = process_time() - started
            if times[name] > 2 * min(times.values()):
                break
    best = [name for name in sorted(calls, key=lambda name: times[name]) if times[name] <= 1.5 * min(times.values())]
    return {name: calls[name] for name in best[:4]}, sum(times[name] for name in best[:4])


def medians(calls: Candidates, repeats: int) -> dict[str, float]:
    """Return the median CPU time of each call in milliseconds, interleaving the calls."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            started = process_time()
            call()
            if number:  # the first round warms up
                times[name].append((process_time() - started) * 1e3)
    return {name: median(values) for name, values in times.items()}


@contextmanager
def without_native() -> Iterator[None]:
    """Compute Jacobians without the native kernel, as on a machine that has no compiler."""
    with decided(lambda: False):
        yield


def other_version(folder: Path) -> Callable[..., Any]:
    """Import `jacobian` from another source folder, next to this version."""
    own_modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pellucid"}
    for name in own_modules:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    from pellucid.jacobians import jacobian as loaded

    assert Path(sys.modules["pellucid"].__file__ or "").is_relative_to(folder)
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pellucid"]:
        del sys.modules[name]
    sys.modules.update(own_modules)
    return loaded


def measure(case: Case, seconds: float, baseline: Callable[..., Any] | None) -> dict[str, Any]:
    """Measure one case for about so many seconds, and return its record."""
    model, x = case.problem()
    report = jacobian_report(model, x)
    with without_native():
        generic_report = jacobian_report(model, x)
    exact = by_loop(model.double(), x.double())
    model.float()

    def generic() -> object:
        with without_native():
            return jacobian_report(model, x)

    calls: Candidates = {"native": lambda: jacobian_report(model, x), "generic": generic}
    if baseline is not None:
        calls["baseline"] = lambda: baseline(model, x)
    publics, round_seconds = screened(public_methods(model, x))
    calls |= publics | {"forward": lambda: model(x)}
    # ours and the forward pass take about as long as one more public method
    repeats = max(3, min(301, round(seconds / (1.5 * round_seconds))))
    times = medians(calls, repeats)
    return {
        "case": case.title,
        "method": report.method,
        "generic_method": generic_report.method,
        "chunk": report.chunk,
        "repeats": repeats,
        "deviation": float((report.jacobian - exact).abs().max() / exact.abs().max()),
        "generic_deviation": float((generic_report.jacobian - exact).abs().max() / exact.abs().max()),
        "ms": times,
    }


def judged(case: Case, record: dict[str, Any], ours: str) -> dict[str, Any]:
    """Return the figures of one version of ours ("native" or "generic") and whether each meets its bound."""
    times = record["ms"]
    publics = {name: value for name, value in times.items() if name not in ("native", "generic", "baseline", "forward")}
    best = min(publics, key=lambda name: publics[name])
    reference = times.get("baseline", times["generic"])
    row = {
        "passes": times[ours] / times["forward"],
        "best_public": best,
        "gain": publics[best] / times[ours],
        "slowdown": times[ours] / reference,
        "overhead_ms": times[ours] - publics[best],
    }
    met = {"slowdown": row["slowdown"] <= MOST_SLOWDOWN}
    if case.images == 1:
        met["overhead_ms"] = row["overhead_ms"] <= MOST_OVERHEAD
    if case.most_passes is not None and ours == "native":
        met["passes"] = row["passes"] <= case.most_passes
    if case.least_gain is not None and ours == "native":
        met["gain"] = row["gain"] >= case.least_gain
    return row | {"met": met}


def table(cases: list[Case], records: list[dict[str, Any]], ours: str) -> str:
    """Format the figures of one version of ours as a table in Markdown."""
    head = (
        "Case, images|Method|ms|forward passes|bound (aim)|× best public|bound (aim)|best public|× before|ms over best"
    )
    lines = [f"| {head.replace('|', ' | ')} | |", "|---" * 11 + "|"]
    for case, record in zip(cases, records, strict=True):
        row = record[f"{ours}_figures"]
        is_bounded = ours == "native"
        passes = _bound("≤", case.most_passes, case.aimed_passes) if is_bounded else ""
        gain = _bound("≥", case.least_gain, case.aimed_gain) if is_bounded else ""
        over = f"{row['overhead_ms']:+.2f}" if case.images == 1 else ""
        missed = [name.removesuffix("_ms") for name, is_met in row["met"].items() if not is_met]
        lines.append(
            f"| {case.title} | {record['method' if is_bounded else 'generic_method']} | {record['ms'][ours]:.2f} "
            f"| {row['passes']:.2f} | {passes} | {row['gain']:.2f} | {gain} | {row['best_public']} "
            f"| {1 / row['slowdown']:.2f} | {over} | {'missed: ' + ', '.join(missed) if missed else 'met'} |"
        )
    return "\n".join(lines)


def _bound(sign: str, bound: float | None, aim: float | None) -> str:
    if bound is None:
        return ""
    return f"{sign} {bound:g}" + ("" if aim is None else f" ({aim:g})")


def added_memory(case: Case, *, native: bool) -> dict[str, float]:
    """Return the peak memory that a Jacobian adds, and the size of its output, in MB, measured in a new process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PELLUCID_NATIVE": "1" if native else "0"}
    command = [sys.executable, __file__, "--memory", case.title]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_memory(title: str) -> dict[str, float]:
    """Measure the memory in this process, after a first Jacobian of one image."""
    torch.set_num_threads(1)
    model, x = next(case for case in CASES if case.title == title).problem()
    jacobian_report(model, x[:1])
    before = peak_memory()
    report = jacobian_report(model, x)
    size = report.jacobian.numel() * report.jacobian.element_size() / 2**20
    return {"method": report.method, "added": peak_memory() - before, "output": size}  # type: ignore[dict-item]


def peak_memory() -> float:
    """Return the peak memory of this program in MB. `ru_maxrss` would include the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def accuracy() -> dict[str, float]:
    """Compute the largest deviation from TensorFlow's float64 Jacobian on aug-net's network."""
    model, arrays = augnet()
    truth = arrays["jacobian_f64"]
    double = jacobian_report(model, arrays["input"]).jacobian[0, :, 0]
    single = jacobian_report(model.float(), arrays["input"].float()).jacobian[0, :, 0]
    return {"float64": float((double - truth).abs().max()), "float32": float((single - truth).abs().max())}


def run(options: argparse.Namespace) -> bool:
    """Measure everything, print the tables, write the record after each case, and return True if all bounds are met."""
    torch.set_num_threads(1)
    cases = [case for case in CASES if case.is_quick or not options.quick]
    cases = [case for case in cases if not options.only or re.search(options.only, case.title)]
    baseline = other_version(options.baseline.resolve()) if options.baseline else None
    record: dict[str, Any] = {"torch": torch.__version__, "load": os.getloadavg(), "cases": []}
    try:
        record["library"] = pellucid.build_native().name
    except PellucidError as error:
        print(f"no native kernel: {error}", file=sys.stderr)
    record["memory"] = {
        f"{case.title}, {'native' if native else 'generic'}": added_memory(case, native=native)
        for case in cases
        if case.measures_memory
        for native in (True, False)
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        row = measure(case, 2 if options.quick else options.seconds, baseline)
        row |= {f"{ours}_figures": judged(case, row, ours) for ours in ("native", "generic")}
        record["cases"].append(row | {"load": os.getloadavg()})
        (options.folder / "jacobian.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{case.title}: {json.dumps(row['native_figures'])}", file=sys.stderr, flush=True)
    if any(case.name == "aug-net" for case in cases):
        record["augnet_deviation"] = accuracy()
        (options.folder / "jacobian.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(report_of(cases, record))
    is_small = all(memory["added"] <= memory["output"] + MOST_MEMORY for memory in record["memory"].values())
    return is_small and all(all(row["native_figures"]["met"].values()) for row in record["cases"])


def report_of(cases: list[Case], record: dict[str, Any]) -> str:
    """Format the tables with and without the native kernel, and that of the peak memory, in Markdown."""
    parts = [
        f"With the native kernel:\n\n{table(cases, record['cases'], 'native')}\n",
        f"Without it:\n\n{table(cases, record['cases'], 'generic')}\n",
        "| Peak memory, MB | added | output | bound | |\n|---|---|---|---|---|",
    ]
    for name, memory in record["memory"].items():
        bound = memory["output"] + MOST_MEMORY
        state = "met" if memory["added"] <= bound else "missed"
        parts.append(f"| {name} | {memory['added']:.0f} | {memory['output']:.0f} | ≤ {bound:.0f} | {state} |")
    return "\n".join(parts)


def main() -> None:
    """Parse the arguments, run, and exit with 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats, under two minutes")
    parser.add_argument("--only", help="cases whose title matches this regular expression, such as 'CNN, 64'")
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds per case")
    parser.add_argument("--baseline", type=Path, metavar="SRC", help="source folder of an earlier version")
    parser.add_argument("--memory", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(measure_memory(options.memory)))
        return
    raise SystemExit(not run(options))


if __name__ == "__main__":
    main()
