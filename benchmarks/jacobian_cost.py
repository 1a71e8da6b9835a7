"""Measure the cost of the Jacobian by images, outputs, width and sparsity: `python benchmarks/jacobian_cost.py`.

One process, one thread, CPU time, in units of one forward pass of the same images. Writes `jacobian_cost.json` and the
plot `jacobian_cost.png` to FOLDER (default: `benchmarks/results` and `docs/pictures`, respectively). Finite differences
are extrapolated from one forward pass in float64.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import torch
from jacobian import without_native
from jacobian_networks import ROOT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from torch import Tensor, nn

import pellucid

PIXELS = 784
IMAGES = (1, 4, 16, 64, 256, 1024)
OUTPUTS = (2, 5, 10, 30, 100, 300, 1000)
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
BIASES = (-0.2, -0.18, -0.16, -0.12, -0.06, 0.0, 0.12, 0.5)
"""Biases of both convolutions, which decide how many of their ReLUs are active."""

Point = dict[str, float]
"""`x`, the share of active positions, and the cost in forward passes by way of computing."""

STYLES = {
    "finite differences": {"color": "#9aa3ad", "ls": "--", "marker": ""},
    "generic": {"color": "#c2410c", "marker": "s"},
    "native": {"color": "#1d4ed8", "marker": "o"},
}
LABELS = {
    "finite differences": "finite differences, extrapolated",
    "generic": "without a compiler",
    "native": "native kernel",
}


def network(*, outputs: int = 10, width: float = 1.0, bias: float | None = None) -> nn.Module:
    """Build the CNN of the benchmarks: convolutions with 32 and 64 channels, max-pooling, 128 units."""
    torch.manual_seed(0)
    first, second, units = (round(width * size) for size in (32, 64, 128))
    convolutions = [nn.Conv2d(1, first, 3), nn.Conv2d(first, second, 3)]
    if bias is not None:
        for convolution in convolutions:
            nn.init.constant_(convolution.bias, bias)
    parts = [convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    parts += [nn.Linear(144 * second, units), nn.ReLU(), nn.Linear(units, outputs)]
    return nn.Sequential(*parts).eval().requires_grad_(False)


def active_share(model: nn.Module, x: Tensor) -> float:
    """Return the share of the convolutions' output values through which the outputs depend on the image.

    A value counts if the derivative of a random combination of the outputs by it is not zero.
    """
    values: list[Tensor] = []
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    handles = [layer.register_forward_hook(lambda _, __, value: values.append(value)) for layer in layers]
    outputs = model(x.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    slopes = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), values)
    return sum(int(slope.count_nonzero()) for slope in slopes) / sum(slope.numel() for slope in slopes)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the minimum CPU time of several calls."""
    times = []
    for _ in range(repeats):
        started = process_time()
        call()
        times.append(process_time() - started)
    return min(times)


def measure(model: nn.Module, x: Tensor, at: float, forward_in_double: float) -> Point:
    """Measure one point; `forward_in_double` is the time of a forward pass in float64 per one in float32."""
    shared = x[: min(len(x), 64)]

    def generic() -> object:
        with without_native():
            return pellucid.jacobian(model, x)

    calls: dict[str, Callable[[], object]] = {"native": lambda: pellucid.jacobian(model, x), "generic": generic}
    first = {name: seconds(call, 1) for name, call in calls.items()}
    repeats = {name: 1 if took > 4 else 3 if took > 0.5 else 9 for name, took in first.items()}
    forward = seconds(lambda: model(x), 15)
    costs = {name: min(first[name], seconds(call, repeats[name])) / forward for name, call in calls.items()}
    share = active_share(model, shared)
    return {"x": at, "active": share, "finite differences": 2 * PIXELS * forward_in_double} | costs


def sweep() -> Iterator[tuple[str, Point]]:
    """Yield the points of all panels, and print them."""
    torch.manual_seed(0)
    pixels = torch.rand(max(IMAGES), 1, 28, 28)
    plain = network()
    pellucid.jacobian(plain, pixels[:64])  # the first call of a process loads libraries
    in_single = seconds(lambda: plain(pixels[:64]), 9)
    doubled = network().double()
    ratio = seconds(lambda: doubled(pixels[:64].double()), 9) / in_single
    cases = [("images", plain, pixels[:count], float(count)) for count in IMAGES]
    cases += [("outputs", network(outputs=count), pixels[:16], float(count)) for count in OUTPUTS]
    cases += [("width", network(width=width), pixels[:16], width) for width in WIDTHS]
    cases += [("active", network(bias=bias), pixels[:64], bias) for bias in BIASES]
    for panel, model, x, at in cases:
        point = measure(model, x, at, ratio)
        print(panel, {name: round(value, 3) for name, value in point.items()}, flush=True)
        yield panel, point


def draw(panels: dict[str, list[Point]]) -> Figure:
    """Plot four log-log panels on one scale of cost."""
    figure = Figure((9.2, 7.2), dpi=110, layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    axes = dict(zip(("images", "outputs", "width", "active"), grid.flat, strict=True))
    titles = {
        "images": ("By number of images", "images (10 outputs)"),
        "outputs": ("By number of outputs", "outputs (16 images)"),
        "width": ("By width", "channels and units, relative to 32-64-128 (16 images)"),
        "active": ("By sparsity", "active positions of the convolutions (64 images)"),
    }
    for name, panel in axes.items():
        _panel(panel, name, panels[name])
        panel.set_title(titles[name][0], fontsize=11, loc="left", fontweight="bold")
        panel.set_xlabel(titles[name][1], fontsize=9.5)
    for row in grid:
        row[0].set_ylabel("cost in forward passes", fontsize=9.5)
    handles, labels = axes["images"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return figure


def _panel(axes: Axes, name: str, points: list[Point]) -> None:
    points = sorted(points, key=lambda point: point["active"]) if name == "active" else points
    sizes = [point["active" if name == "active" else "x"] for point in points]
    for way, style in STYLES.items():
        costs = [point[way] for point in points]
        axes.loglog(sizes, costs, lw=1.8, ms=5, label=LABELS[way], **style)
        if way == "finite differences":
            axes.annotate(f"{costs[0]:,.0f}", (sizes[0], costs[0]), (0, 5), textcoords="offset points", fontsize=8.5)
            continue
        # the cost at both ends, above the generic line and below the native one
        for place in (0, -1):
            offset = (0, 8) if way == "generic" else (0, -15)
            axes.annotate(
                f"{costs[place]:.3g}" if costs[place] < 100 else f"{costs[place]:,.0f}",
                (sizes[place], costs[place]),
                xytext=offset,
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=style["color"],
            )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#e5e7eb", lw=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.07)
    labels = {"active": "{:.0%}", "width": "{:g}×"}
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5] if name == "active" else sizes
    ticks = [tick for tick in ticks if min(sizes) * 0.8 <= tick <= max(sizes) * 1.25]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xticks(ticks, [labels.get(name, "{:,g}").format(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    costs = [point[way] for point in points for way in STYLES]
    axes.set_ylim(min(0.5, 0.7 * min(costs)), 2 * max(costs))
    axes.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axes.yaxis.set_minor_locator(NullLocator())
    if name != "active":
        share = sum(point["active"] for point in points) / len(points)
        axes.text(
            0.98, 0.82, f"{share:.0%} active", transform=axes.transAxes, ha="right", fontsize=8.5, color="#6b7280"
        )


def main() -> None:
    """Measure, plot and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--redraw", action="store_true", help="redraw the plot from existing numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = (options.folder or ROOT / "benchmarks" / "results") / "jacobian_cost.json"
    picture = (options.folder or ROOT / "docs" / "pictures") / "jacobian_cost.png"
    numbers.parent.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        pellucid.build_native()
        panels: dict[str, list[Point]] = {}
        for name, point in sweep():
            panels.setdefault(name, []).append(point)
        record = {"load": os.getloadavg(), "panels": panels}
        numbers.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(json.loads(numbers.read_text(encoding="utf-8"))["panels"]).savefig(picture, metadata={"Software": None})


if __name__ == "__main__":
    main()
