"""The Jacobian engine beside torch's own ways: `python benchmarks/jacobian.py [--quick] [FOLDER]`.

One process, one thread, all candidates of a case interleaved, process CPU time, medians. Prints the tables and writes
`jacobian.json` into FOLDER (default: `benchmarks/results`). The cost by images and outputs is measured and drawn by
`jacobian_cost.py`. aug-net's case needs the reference folder (PELLUCID_SHARED).
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

from pellucid.jacobian import _kernels, jacobian_report
from pellucid.jacobian._jacobian import METHODS

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("PELLUCID_SHARED", ROOT.parent / "shared"))
Candidates = dict[str, Callable[[], object]]


def cnn() -> nn.Module:
    """Two 3×3 convolutions, max-pool, 128, 10."""
    head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), *head)


def mlp() -> nn.Module:
    """784-300-100-10."""
    parts = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *parts)


def vgg() -> nn.Module:
    """Four blocks of two 3×3 convolutions."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        parts += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def resnet() -> nn.Module:
    """ResNet-18 with 10 classes, from torchvision."""
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def regression() -> nn.Module:
    """4 inputs, 2 outputs: [sin x1 x2, cos x3 x4] on [0, 1]^4, trained until its Jacobian is within 5 %."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    points = torch.rand(2000, 4)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=600, history_size=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = (model(points) - target(points)).square().sum(1).mean()
        error.backward()
        return error

    optimiser.step(loss)
    x = torch.rand(1000, 4)
    true = vmap(jacrev(lambda point: target(point[None])[0]))(x)
    error = (jacobian_report(model, x).jacobian - true).norm() / true.norm()
    print(f"regression: Jacobian within {float(error):.1%} of the true one")
    assert error < 0.05
    return model


def target(x: Tensor) -> Tensor:
    """What the regression learns."""
    return torch.stack([(x[:, 0] * x[:, 1]).sin(), (x[:, 2] * x[:, 3]).cos()], 1)


def looped(model: nn.Module, x: Tensor) -> Tensor:
    """K backward passes over the whole batch."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    rows = []
    for k in range(y.shape[1]):
        cotangent = torch.zeros_like(y)
        cotangent[:, k] = 1
        rows += torch.autograd.grad(y, leaf, cotangent, retain_graph=True)
    return torch.stack(rows, 1)


def batched(model: nn.Module, x: Tensor) -> Tensor:
    """One backward pass with `is_grads_batched`."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    cotangents = torch.eye(y.shape[1])[:, None].expand(-1, len(x), -1)
    (rows,) = torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True)
    return rows.movedim(0, 1)


def candidates(model: nn.Module, x: Tensor) -> Candidates:
    """Ours and the others; of several images, autograd.functional.jacobian is asked for the sum, without the blocks
    between images.
    """

    def one(image: Tensor) -> Tensor:
        return model(image[None])[0]

    found: Candidates = {"ours": lambda: jacobian_report(model, x).jacobian}
    found["loop"] = lambda: looped(model, x)
    found["is_grads_batched"] = lambda: batched(model, x)
    found["vmap(jacrev)"] = lambda: vmap(jacrev(one))(x)
    found["functional.jacobian"] = lambda: torch.autograd.functional.jacobian(
        model if len(x) == 1 else lambda images: model(images).sum(0), x
    )
    for size in (1, 2, 4, 8, 16, 32):
        if size < len(x):
            found[f"vmap(jacrev, chunk {size})"] = lambda size=size: vmap(jacrev(one), chunk_size=size)(x)
    return found


def medians(found: Candidates, repeats: int) -> dict[str, float]:
    """Process CPU milliseconds of each, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(repeats + 1):
        for name, call in found.items():
            started = process_time()
            call()
            if number:  # the first round warms up
                times[name].append((process_time() - started) * 1e3)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


def takes_milliseconds(model: nn.Module, x: Tensor) -> bool:
    """Whether a Jacobian takes under 15 ms, so that many repeats are needed, and cost little."""
    looped(model.eval(), x)
    started = process_time()
    looped(model, x)
    return process_time() - started < 0.015


def measure(name: str, model: nn.Module, x: Tensor, repeats: int) -> dict[str, object]:
    """One row of the table."""
    model = model.eval().requires_grad_(False)
    report = jacobian_report(model, x)
    exact = looped(model.double(), x.double())
    model.float()
    found = candidates(model, x) | {"forward": lambda: model(x)}
    times = medians(found, repeats)
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
    """Megabytes that 256 images on the CNN add to the peak, and the output's own. Before anything else is run."""
    torch.manual_seed(0)
    model, x = cnn().eval(), torch.rand(256, 1, 28, 28)
    jacobian_report(model, x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = jacobian_report(model, x).jacobian
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"added_megabytes": added, "output_megabytes": found.numel() * found.element_size() / 2**20}


@contextmanager
def without(swap: str) -> Iterator[None]:
    """The engine with one kind of convolution done as the library does it."""
    real = _kernels.way_of

    def other(*arguments: Any) -> str | None:
        found = real(*arguments)
        return None if found == swap else found

    with patch.object(_kernels, "way_of", other):
        yield


def ways(repeats: int) -> dict[str, float]:
    """How many times as long each case takes without its way: by the plain loop, or by the library's convolution."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid()).eval()
    narrow = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 40)]
    bottleneck = nn.Sequential(*list(cnn().children())[:5], *narrow).eval()
    cases = {
        "folded": (mlp().eval(), torch.rand(1, 1, 28, 28)),
        "forward": (decoder, torch.rand(16, 8)),
        "cut": (bottleneck, torch.rand(16, 1, 28, 28)),
    }
    gains = {name: gain(name, model, x, 5 * repeats) for name, (model, x) in cases.items()}
    swaps = {
        "multiplier": (depthwise(3, 3, 7), torch.rand(8, 8, 48, 48)),
        "fourier": (depthwise(1, 2, 20), torch.rand(4, 8, 96, 96)),
        "one_channel": (cnn().eval(), torch.rand(64, 1, 28, 28)),
    }
    return gains | {name: gain(name, model, x, repeats) for name, (model, x) in swaps.items()}


def gain(name: str, model: nn.Module, x: Tensor, repeats: int) -> float:
    """Time without a way as a multiple of that with it."""
    if name in METHODS:
        found = {method: lambda method=method: jacobian_report(model, x, method=method) for method in ("loop", name)}
        times = medians(found, repeats)
        return times["loop"] / times[name]
    times = medians({"with": lambda: jacobian_report(model, x), "without": lambda: apart(name, model, x)}, repeats)
    return times["without"] / times["with"]


def depthwise(multiplier: int, layers: int, side: int) -> nn.Module:
    """Depthwise convolutions of 8 channels, each summed up again, and 6 outputs."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(8, 8 * multiplier, side, padding=side // 2, groups=8), nn.Conv2d(8 * multiplier, 8, 1)]
        parts += [nn.Tanh()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)).eval()


def apart(name: str, model: nn.Module, x: Tensor) -> Tensor:
    """The Jacobian without one swap."""
    with without(name):
        return jacobian_report(model, x).jacobian


def augnet() -> tuple[nn.Module, dict[str, Tensor]]:
    """aug-net's network in float64 and its reference arrays, as the tests build them."""
    spec = spec_from_file_location("augnet", ROOT / "tests" / "jacobian" / "augnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: tuple[nn.Module, dict[str, Tensor]] = module.augnet(SHARED)
    return found


def accuracy() -> dict[str, float]:
    """aug-net's network: the largest deviation from TensorFlow's float64 Jacobian."""
    model, arrays = augnet()
    truth = arrays["jacobian_f64"]
    double = jacobian_report(model, arrays["input"]).jacobian[0, :, 0]
    single = jacobian_report(model.float(), arrays["input"].float()).jacobian[0, :, 0]
    return {"float64": float((double - truth).abs().max()), "float32": float((single - truth).abs().max())}


def main() -> None:
    """Run all cases."""
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
        "| Case, images | Way | ms | best other, ms | forward passes | × vmap(jacrev) | × best chunk | × loop "
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
