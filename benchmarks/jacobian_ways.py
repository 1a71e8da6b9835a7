"""Measure the algorithms and convolution kernels of the Jacobian engine: `python benchmarks/jacobian_ways.py`.

Each is timed against the plain loop (algorithms) or against torch's own convolution (kernels), interleaved in one
process and one thread, and with the native kernel of `pellucid.build_native` where it applies. Prints one line each and
writes `jacobian_ways.json` to FOLDER (default: `benchmarks/results`).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from jacobian import medians, without_native
from jacobian_networks import ROOT, SHARED, augnet, cnn, mlp
from torch import Tensor, nn

from pellucid.errors import PellucidError
from pellucid.jacobians import _exact, _jacobian, _kernels, jacobian_report

ALGORITHMS = ("folded", "forward", "cut")
Calls = dict[str, Callable[[], object]]


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return a network and images for each algorithm, kernel and the float64 forward pass."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
    narrow = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 40)]
    found: dict[str, tuple[nn.Module, Tensor]] = {
        "folded": (mlp(), torch.rand(1, 1, 28, 28)),
        "forward": (decoder, torch.rand(16, 8)),
        "cut": (nn.Sequential(*list(cnn().children())[:5], *narrow), torch.rand(16, 1, 28, 28)),
        "one_channel": (cnn(), torch.rand(64, 1, 28, 28)),
        "multiplier": (depthwise(3, 3, 7), torch.rand(8, 8, 48, 48)),
        "fourier": (depthwise(1, 2, 20), torch.rand(4, 8, 96, 96)),
    }
    if SHARED.is_dir():
        model, arrays = augnet()
        found["double"] = model.float(), arrays["input"].float()
    return {name: (model.eval().requires_grad_(False), x) for name, (model, x) in found.items()}


def depthwise(multiplier: int, layers: int, side: int) -> nn.Module:
    """Build a network of depthwise-separable convolutions with 8 channels and 6 outputs."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(8, 8 * multiplier, side, padding=side // 2, groups=8), nn.Conv2d(8 * multiplier, 8, 1)]
        parts += [nn.Tanh()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))


@contextmanager
def without(swap: str) -> Iterator[None]:
    """Disable one of the engine's convolution kernels, or the float64 forward pass."""
    real = _kernels.way_of

    def way_of(*arguments: Any) -> str | None:
        kernel = real(*arguments)
        return None if kernel == swap else kernel

    if swap == "double":
        with patch.object(_jacobian, "with_exact_masks", lambda plan: plan):
            yield
    else:
        with patch.object(_kernels, "way_of", way_of), patch.object(_exact, "way_of", way_of):
            yield


def compared(name: str, model: nn.Module, x: Tensor) -> Calls:
    """Return the calls to compare. Those without a kernel have their own copy of the model: layouts are cached."""
    copy = type(model)(*model.children()) if isinstance(model, nn.Sequential) else model

    def auto() -> object:
        return jacobian_report(model, x)

    def generic(model: nn.Module = model, method: str = "auto") -> object:
        with without_native():
            return jacobian_report(model, x, method=method)

    def without_swap() -> object:
        with without(name):
            return generic(copy)

    def native() -> object:
        return jacobian_report(model, x, method="native")

    calls: Calls = {"auto": auto, "generic": generic}
    calls["without"] = (lambda: generic(method="loop")) if name in ALGORITHMS else without_swap
    try:
        native()
    except PellucidError as error:
        print(f"{name}: no native kernel ({str(error).splitlines()[0]})")
    else:
        calls["native"] = native
    return calls


def main() -> None:
    """Measure all cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, (model, x) in cases().items():
        calls = compared(name, model, x)
        report = jacobian_report(model, x)
        with without_native():
            generic = jacobian_report(model, x).method
        many = 10 if name in ("folded", "forward") else 1
        times = medians(calls, many * options.repeats if name != "double" else 3)
        rows[name] = {"method": report.method, "generic_method": generic, "ms": times}
        print(name, report.method, generic, {key: round(value, 3) for key, value in times.items()}, flush=True)
        print(f"  speedup without the native kernel {times['without'] / times['generic']:.2f}", flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "jacobian_ways.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
