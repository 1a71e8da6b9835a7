"""The Jacobian engine beside torch's own ways: `python benchmarks/jacobian.py [--quick] [FOLDER]`.

One process, one thread, all candidates of a case interleaved, process CPU time, medians. Prints a table and writes
`jacobian.json` into FOLDER (default: the current one). aug-net's case needs the reference folder (PELLUCID_SHARED).
"""

import argparse
import json
import os
import resource
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from time import process_time

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pellucid.jacobian import jacobian_report

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
    """Ours and the others; torch.autograd.functional.jacobian computes the blocks between images too, so only at 1."""

    def one(image: Tensor) -> Tensor:
        return model(image[None])[0]

    found: Candidates = {"ours": lambda: jacobian_report(model, x).jacobian}
    found["loop"] = lambda: looped(model, x)
    found["is_grads_batched"] = lambda: batched(model, x)
    found["vmap(jacrev)"] = lambda: vmap(jacrev(one))(x)
    if len(x) == 1:
        found["functional.jacobian"] = lambda: torch.autograd.functional.jacobian(model, x)
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


def measure(name: str, model: nn.Module, x: Tensor, repeats: int) -> dict[str, object]:
    """One row of the table."""
    model = model.eval().requires_grad_(False)
    report = jacobian_report(model, x)
    exact = looped(model, x)
    found = candidates(model, x) | {"forward": lambda: model(x)}
    times = medians(found, repeats)
    forward, ours = times.pop("forward"), times.pop("ours")
    best = min(times, key=lambda key: times[key])
    chunked = [value for key, value in times.items() if key.startswith("vmap")]
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
        "over_best_chunk": min(chunked) / ours,
        "over_loop": times["loop"] / ours,
        "over_is_grads_batched": times["is_grads_batched"] / ours,
        "largest_deviation": float((report.jacobian - exact).abs().max() / exact.abs().max()),
        "others_ms": times,
    }
    shown = ["ours_ms", "forward_passes", "best_other_ms", "over_vmap_jacrev", "over_best_chunk", "over_loop"]
    numbers = "  ".join(f"{float(str(row[key])):9.2f}" for key in [*shown, "over_is_grads_batched"])
    print(
        f"{name:16s} {report.method:22s} {numbers}  {best:22s} {'ok' if row['is_within_bound'] else 'SLOWER'}",
        flush=True,
    )
    return row


def memory() -> dict[str, float]:
    """Megabytes that 256 images on the CNN add to the peak, and the output's own."""
    torch.manual_seed(0)
    model, x = cnn().eval(), torch.rand(256, 1, 28, 28)
    jacobian_report(model, x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = jacobian_report(model, x).jacobian
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"added_megabytes": added, "output_megabytes": found.numel() * found.element_size() / 2**20}


def cost(repeats: int) -> dict[str, list[list[float]]]:
    """CPU seconds by images (10 outputs) and by outputs (64 images), and of finite differences, extrapolated."""
    torch.manual_seed(0)
    model = cnn().eval()
    wide = nn.Sequential(*list(model.children())[:-1], nn.Linear(128, 100)).eval()
    images = [
        [n, medians({"": lambda n=n: jacobian_report(model, torch.rand(n, 1, 28, 28))}, repeats)[""] / 1e3]
        for n in (1, 4, 16, 64, 256, 1024, 4096)
    ]
    x = torch.rand(64, 1, 28, 28)
    outputs = [
        [k, medians({"": lambda k=k: jacobian_report(wide, x, list(range(k)))}, repeats)[""] / 1e3]
        for k in (1, 3, 10, 30, 100)
    ]
    double = cnn().double().eval()
    forward = medians({"": lambda: double(torch.rand(16, 1, 28, 28).double())}, 3)[""] / 1e3 / 16
    return {"images": images, "outputs": outputs, "finite_differences": [[n, forward * 2 * 784 * n] for n, _ in images]}


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and no cost curve")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, object] = {"torch": torch.__version__, "memory": memory()}
    torch.manual_seed(0)
    cases: list[tuple[str, nn.Module, Tensor]] = []
    for batch in (1, 64, 256):
        cases += [
            (f"cnn {batch}", cnn(), torch.rand(batch, 1, 28, 28)),
            (f"mlp {batch}", mlp(), torch.rand(batch, 1, 28, 28)),
        ]
    cases += [("vgg 16", vgg(), torch.rand(16, 3, 64, 64)), ("resnet18 16", resnet(), torch.rand(16, 3, 64, 64))]
    trained = regression()
    cases += [("regression 1", trained, torch.rand(1, 4)), ("regression 256", trained, torch.rand(256, 4))]
    if SHARED.is_dir():
        module = SourceFileLoader("augnet", str(ROOT / "tests" / "jacobian" / "augnet.py")).load_module()
        model, arrays = module.augnet(SHARED)
        cases.append(("aug-net 1", model.float(), arrays["input"].float()))
    rows = []
    print(f"{'case':16s} {'method':22s}   ours ms   forwards   best ms   /jacrev    /chunk     /loop  /batched")
    for name, model, x in cases:
        small = (len(x) == 1 and "aug" not in name) or "regression" in name
        rows.append(measure(name, model, x, 60 if small else (3 if options.quick else 5)))
    record["cases"] = rows
    if not options.quick:
        record["cost"] = cost(1)
    print(f"memory at 256: {record['memory']}")
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "jacobian.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
