"""Compare the Jacobian engine with torch's own methods: `python benchmarks/jacobian.py [--quick] [FOLDER]`.

One process, one thread, candidates of a case interleaved, medians of CPU time. Prints the tables and writes
`jacobian.json` to FOLDER (default: `benchmarks/results`). `jacobian_cost.py` measures and plots the cost by images and
outputs. aug-net's case needs the reference folder (PELLUCID_SHARED).
"""

import argparse
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pellucid.jacobians import _kernels, jacobian_report
from pellucid.jacobians._jacobian import METHODS

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("PELLUCID_SHARED", ROOT.parent / "shared"))
Candidates = dict[str, Callable[[], object]]


def cnn() -> nn.Module:
    """Build a CNN: two 3×3 convolutions, max-pooling, dense layers of 128 and 10."""
    head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), *head)


def mlp() -> nn.Module:
    """Build an MLP 784-300-100-10."""
    parts = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *parts)


def vgg() -> nn.Module:
    """Build a VGG-like network: four blocks of two 3×3 convolutions."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        parts += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def resnet() -> nn.Module:
    """Build torchvision's ResNet-18 with 10 classes."""
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def regression() -> nn.Module:
    """Fit [sin x1 x2, cos x3 x4] on [0, 1]^4, until the relative error of the Jacobian is below 5%."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    points = torch.rand(2000, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=600, history_size=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = (model(points) - target(points)).square().sum(1).mean()
        error.backward()
        return error

    optimizer.step(loss)
    x = torch.rand(1000, 4)
    true = vmap(jacrev(lambda point: target(point[None])[0]))(x)
    error = (jacobian_report(model, x).jacobian - true).norm() / true.norm()
    print(f"regression: relative error of the Jacobian {float(error):.1%}")
    assert error < 0.05
    return model


def target(x: Tensor) -> Tensor:
    """Target function of the regression."""
    return torch.stack([(x[:, 0] * x[:, 1]).sin(), (x[:, 2] * x[:, 3]).cos()], 1)


def jacobian_by_loop(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the Jacobian by K backward passes over the whole batch."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    rows = []
    for k in range(y.shape[1]):
        cotangent = torch.zeros_like(y)
        cotangent[:, k] = 1
        rows += torch.autograd.grad(y, leaf, cotangent, retain_graph=True)
    return torch.stack(rows, 1)


def jacobian_by_batched_grads(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the Jacobian by one backward pass with `is_grads_batched`."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    cotangents = torch.eye(y.shape[1])[:, None].expand(-1, len(x), -1)
    (rows,) = torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True)
    return rows.movedim(0, 1)


def candidates(model: nn.Module, x: Tensor) -> Candidates:
    """Return all candidates by name.

    For several images, `autograd.functional.jacobian` differentiates the sum over images, to avoid computing the blocks
    between different images.
    """

    def one(image: Tensor) -> Tensor:
        return model(image[None])[0]

    calls: Candidates = {"ours": lambda: jacobian_report(model, x).jacobian}
    calls["loop"] = lambda: jacobian_by_loop(model, x)
    calls["is_grads_batched"] = lambda: jacobian_by_batched_grads(model, x)
    calls["vmap(jacrev)"] = lambda: vmap(jacrev(one))(x)
    calls["functional.jacobian"] = lambda: torch.autograd.functional.jacobian(
        model if len(x) == 1 else lambda images: model(images).sum(0), x
    )
    for size in (1, 2, 4, 8, 16, 32):
        if size < len(x):
            calls[f"vmap(jacrev, chunk {size})"] = lambda size=size: vmap(jacrev(one), chunk_size=size)(x)
    return calls


def medians(calls: Candidates, repeats: int) -> dict[str, float]:
    """Return the median CPU time of each call in milliseconds, interleaving the calls."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            started = process_time()
            call()
            if number:  # the first round warms up
                times[name].append((process_time() - started) * 1e3)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


def takes_milliseconds(model: nn.Module, x: Tensor) -> bool:
    """Return True if a Jacobian takes under 15 ms, so that many repeats are needed and affordable."""
    jacobian_by_loop(model.eval(), x)
    started = process_time()
    jacobian_by_loop(model, x)
    return process_time() - started < 0.015


def measure(name: str, model: nn.Module, x: Tensor, repeats: int) -> dict[str, object]:
    """Measure one case, and print and return its row."""
    model = model.eval().requires_grad_(False)
    report = jacobian_report(model, x)
    exact = jacobian_by_loop(model.double(), x.double())
    model.float()
    times = medians(candidates(model, x) | {"forward": lambda: model(x)}, repeats)
    forward, ours = times.pop("forward"), times.pop("ours")
    best = min(times, key=lambda key: times[key])
    row: dict[str, object] = {
        "case": name,
        "method": report.method,
        "chunk": report.chunk,
        "backwards": report.backwards,
        "ours_ms": ours,
        "forward_ms": forward,
        "forward_passes": ours / forward,
        "best_other": best,
        "best_other_ms": times[best],
        "is_within_bound": ours <= max(1.1 * times[best], times[best] + 0.3),
        "over_vmap_jacrev": times["vmap(jacrev)"] / ours,
        "over_best_chunk": min(value for key, value in times.items() if key.startswith("vmap")) / ours,
        "over_loop": times["loop"] / ours,
        "over_is_grads_batched": times["is_grads_batched"] / ours,
        "largest_deviation": float((report.jacobian - exact).abs().max() / exact.abs().max()),
        "others_ms": times,
    }
    factors = ("over_vmap_jacrev", "over_best_chunk", "over_loop", "over_is_grads_batched")
    numbers = " | ".join(f"{float(str(row[key])):.2f}" for key in ("forward_passes", *factors))
    print(
        f"| {name} | {report.method} | {ours:.2f} | {times[best]:.2f} ({best}) | {numbers} | "
        f"{'yes' if row['is_within_bound'] else 'no'} |",
        flush=True,
    )
    return row


def memory() -> dict[str, float]:
    """Measure the peak memory added by 256 images on the CNN, and the size of the output, in MB.

    Must run first: `ru_maxrss` is the peak over the whole life of the process.
    """
    torch.manual_seed(0)
    model, x = cnn().eval(), torch.rand(256, 1, 28, 28)
    jacobian_report(model, x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = jacobian_report(model, x).jacobian
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"added_megabytes": added, "output_megabytes": result.numel() * result.element_size() / 2**20}


@contextmanager
def without(swap: str) -> Iterator[None]:
    """Disable one of the engine's convolution kernels, so that torch's is used instead."""
    real = _kernels.way_of

    def way_of(*arguments: Any) -> str | None:
        kernel = real(*arguments)
        return None if kernel == swap else kernel

    with patch.object(_kernels, "way_of", way_of):
        yield


def ways(repeats: int) -> dict[str, float]:
    """Measure the speedup of each algorithm over the plain loop, and of each kernel over torch's convolution."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid()).eval()
    narrow = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 40)]
    bottleneck = nn.Sequential(*list(cnn().children())[:5], *narrow).eval()
    cases = {
        "folded": (mlp().eval(), torch.rand(1, 1, 28, 28)),
        "forward": (decoder, torch.rand(16, 8)),
        "cut": (bottleneck, torch.rand(16, 1, 28, 28)),
    }
    speedups = {name: speedup(name, model, x, 5 * repeats) for name, (model, x) in cases.items()}
    swaps = {
        "multiplier": (depthwise(3, 3, 7), torch.rand(8, 8, 48, 48)),
        "fourier": (depthwise(1, 2, 20), torch.rand(4, 8, 96, 96)),
        "one_channel": (cnn().eval(), torch.rand(64, 1, 28, 28)),
    }
    return speedups | {name: speedup(name, model, x, repeats) for name, (model, x) in swaps.items()}


def speedup(name: str, model: nn.Module, x: Tensor, repeats: int) -> float:
    """Return the time without an algorithm or kernel divided by the time with it."""
    if name in METHODS:
        calls = {method: lambda method=method: jacobian_report(model, x, method=method) for method in ("loop", name)}
        times = medians(calls, repeats)
        return times["loop"] / times[name]
    times = medians(
        {"with": lambda: jacobian_report(model, x), "without": lambda: jacobian_without(name, model, x)}, repeats
    )
    return times["without"] / times["with"]


def depthwise(multiplier: int, layers: int, side: int) -> nn.Module:
    """Build a network of depthwise-separable convolutions with 8 channels and 6 outputs."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(8, 8 * multiplier, side, padding=side // 2, groups=8), nn.Conv2d(8 * multiplier, 8, 1)]
        parts += [nn.Tanh()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)).eval()


def jacobian_without(name: str, model: nn.Module, x: Tensor) -> Tensor:
    """Compute the Jacobian with one kernel disabled."""
    with without(name):
        return jacobian_report(model, x).jacobian


def augnet() -> tuple[nn.Module, dict[str, Tensor]]:
    """Load aug-net's network in float64 and its reference arrays, as in the tests."""
    spec = spec_from_file_location("augnet", ROOT / "tests" / "jacobian" / "augnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded: tuple[nn.Module, dict[str, Tensor]] = module.augnet(SHARED)
    return loaded


def accuracy() -> dict[str, float]:
    """Compute the largest deviation from TensorFlow's float64 Jacobian on aug-net's network."""
    model, arrays = augnet()
    truth = arrays["jacobian_f64"]
    double = jacobian_report(model, arrays["input"]).jacobian[0, :, 0]
    single = jacobian_report(model.float(), arrays["input"].float()).jacobian[0, :, 0]
    return {"float64": float((double - truth).abs().max()), "float32": float((single - truth).abs().max())}


def main() -> None:
    """Run all cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, object] = {"torch": torch.__version__, "memory": memory()}
    torch.manual_seed(0)
    cases: list[tuple[str, nn.Module, Tensor]] = []
    for batch in (1, 64, 256):
        cases += [
            (f"CNN, {batch}", cnn(), torch.rand(batch, 1, 28, 28)),
            (f"MLP, {batch}", mlp(), torch.rand(batch, 1, 28, 28)),
        ]
    cases += [("VGG-like, 16", vgg(), torch.rand(16, 3, 64, 64))]
    cases += [("ResNet-18, 16", resnet(), torch.rand(16, 3, 64, 64))]
    trained = regression()
    cases += [("regression, 1", trained, torch.rand(1, 4)), ("regression, 256", trained, torch.rand(256, 4))]
    if SHARED.is_dir():
        model, arrays = augnet()
        cases.append(("aug-net, 1", model.float(), arrays["input"].float()))
        record["augnet_deviation"] = accuracy()
    rows = []
    print(
        "| Case, images | Method | ms | best other, ms | forward passes | × vmap(jacrev) | × best chunk | × loop "
        "| × is_grads_batched | bound |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, model, x in cases:
        few, many = (3, 41) if options.quick else (7, 101)
        rows.append(measure(name, model, x, many if takes_milliseconds(model, x) else few))
    record["cases"] = rows
    record["ways"] = ways(3 if options.quick else 9)
    for key in ("memory", "augnet_deviation", "ways"):
        print(key, record.get(key))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "jacobian.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
