"""Measure the cost of the Jacobian by number of images and outputs: `python benchmarks/jacobian_cost.py [FOLDER]`.

One process, one thread, CPU time. Writes `jacobian_cost.json` and the plot `jacobian_cost.png` to FOLDER (default:
`benchmarks/results` and `docs/pictures`, respectively). Finite differences are extrapolated from one
forward pass in float64.
"""

import argparse
import json
from pathlib import Path
from time import process_time

import torch
from jacobian import ROOT, cnn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from pellucid.jacobians import jacobian_report

IMAGES = (1, 4, 16, 64, 256, 1024, 4096)
OUTPUTS = (1, 3, 10, 30, 100)
Curve = list[tuple[int, float]]


def seconds(model: nn.Module, x: Tensor, outputs: list[int] | None, repeats: int) -> float:
    """Return the minimum CPU time of several calls after a warm-up."""
    jacobian_report(model, x[:1], outputs)
    times = []
    for _ in range(repeats):
        started = process_time()
        jacobian_report(model, x, outputs)
        times.append(process_time() - started)
    return min(times)


def measure() -> dict[str, Curve]:
    """Measure CPU seconds by images (10 outputs) and by outputs (64 images), also for finite differences."""
    torch.manual_seed(0)
    model = cnn().eval()
    wide = nn.Sequential(*list(model.children())[:-1], nn.Linear(128, 100)).eval()
    pixels = torch.rand(max(IMAGES), 1, 28, 28)
    images = [(n, seconds(model, pixels[:n], None, 1 if n > 256 else 5)) for n in IMAGES]
    outputs = [(k, seconds(wide, pixels[:64], list(range(k)), 3)) for k in OUTPUTS]
    return {"images": images, "outputs": outputs, **differences(cnn().double().eval(), pixels[:16].double())}


def differences(model: nn.Module, x: Tensor) -> dict[str, Curve]:
    """Extrapolate two float64 forward passes per pixel (784), for any number of outputs."""
    times = []
    with torch.no_grad():
        for _ in range(6):
            started = process_time()
            model(x)
            times.append(process_time() - started)
    each = 2 * 784 * min(times) / len(x)
    return {
        "images_by_differences": [(n, each * n) for n in IMAGES],
        "outputs_by_differences": [(k, each * 64) for k in OUTPUTS],
    }


def draw(curves: dict[str, Curve]) -> Figure:
    """Plot two log-log panels, in which linear growth is a line of slope 1."""
    figure = Figure((9, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels, ("images", "outputs"), ("by images N (10 outputs)", "by outputs K (64 images)"), strict=True
    ):
        _panel(axes, curves[key], curves[f"{key}_by_differences"])
        axes.set_title(title, fontsize=11)
    panels[0].set_xlabel("images")
    panels[1].set_xlabel("outputs")
    panels[0].set_ylabel("CPU time in seconds, one thread")
    panels[0].legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def _panel(axes: Axes, ours: Curve, differences: Curve) -> None:
    (sizes, times), slope = zip(*ours, strict=True), ours[-1][1] / ours[-1][0]
    axes.loglog(sizes, [slope * size for size in sizes], color="#b6bcc4", lw=1, label="exactly linear")
    axes.loglog(*zip(*differences, strict=True), "--", color="#c2410c", label="finite differences, extrapolated")
    axes.loglog(sizes, times, "o-", color="#1d4ed8", ms=5, label="pellucid.jacobian")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#e5e7eb", lw=0.7)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


def main() -> None:
    """Measure, plot and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--redraw", action="store_true", help="redraw the plot from existing numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = (options.folder or ROOT / "benchmarks" / "results") / "jacobian_cost.json"
    picture = (options.folder or ROOT / "docs" / "pictures") / "jacobian_cost.png"
    numbers.parent.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        numbers.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    draw(json.loads(numbers.read_text(encoding="utf-8"))).savefig(picture, metadata={"Software": None})


if __name__ == "__main__":
    main()
