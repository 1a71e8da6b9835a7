"""Compare the evaluation of explanations in pellucid and Quantus, on the same network, images, methods and metrics.

One process, one thread, alternating rounds, medians of CPU time. Quantus needs a separate environment with pellucid:

    python -m venv quantus && quantus/bin/pip install -e . captum quantus==0.6.0
    quantus/bin/python benchmarks/evaluation.py [--images 32] [--rounds 3]
    quantus/bin/python benchmarks/evaluation.py --reference tests/evaluation/quantus.npz

The second command writes the reference values for the tests. Values of sensitivity-n are not compared: Quantus uses the
n most relevant pixels where the paper draws random sets.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import quantus
import torch
from torch import Tensor, nn

from pellucid.data import Request, load_data
from pellucid.evaluation import METRICS
from pellucid.evaluation._run import plan, run
from pellucid.models import MODELS

METHODS = {
    "gradient": "Saliency",
    "input_x_gradient": "InputXGradient",
    "deconvnet": "Deconvolution",
    "deeplift": "DeepLift",
}
"""pellucid's name to captum's name, which Quantus uses."""
CONTROLS = ("Control Var. Random Uniform", "Control Var. Sobel Filter", "input")
"""Three of pellucid's four controls; Quantus rejects a constant map."""

QUIET = {"disable_warnings": True, "display_progressbar": False}
REFERENCE_CLASSES = 3


def contests() -> dict[str, tuple[Any, list[Any]]]:
    """Map metric names to both implementations, with equal numbers of removals, neighbors, draws and layers."""
    regions = {"patch_size": 4, "regions_evaluation": 49, "perturb_baseline": "black", **QUIET}
    shares = list(range(10, 100, 10))
    return {
        "selectivity": (
            METRICS["selectivity"](steps=49, output="probability"),
            [quantus.RegionPerturbation(order=order, **regions) for order in ("morf", "lerf")],
        ),
        "continuity": (METRICS["continuity"](), [quantus.LocalLipschitzEstimate(nr_samples=6, **QUIET)]),
        "completeness": (METRICS["completeness"](), [quantus.Completeness(**QUIET)]),
        "sparseness": (METRICS["sparseness"](), [quantus.Sparseness(**QUIET)]),
        "random_logit": (METRICS["random_logit"](), [quantus.RandomLogit(num_classes=10, seed=0, **QUIET)]),
        "parameter_randomisation": (
            METRICS["parameter_randomisation"](stages=99),
            [quantus.MPRT(layer_order="top_down", seed=0, **QUIET)],
        ),
        "deletion": (
            METRICS["deletion"](),
            [quantus.PixelFlipping(features_in_step=28, perturb_baseline="black", **QUIET)],
        ),
        "max_sensitivity": (METRICS["max_sensitivity"](), [quantus.MaxSensitivity(nr_samples=10, **QUIET)]),
        "infidelity": (
            METRICS["infidelity"](draws=10, perturbation="square"),
            [quantus.Infidelity(n_perturb_samples=10, perturb_patch_sizes=[7], **QUIET)],
        ),
        "sensitivity_n": (
            METRICS["sensitivity_n"](shares=(0.1, 0.2, 0.4, 0.8), sets=7),
            [quantus.SensitivityN(features_in_step=28, n_max_percentage=1.0, **QUIET)],
        ),
        "road": (METRICS["road"](), [quantus.ROAD(percentages=shares, **QUIET)]),
    }


def ours(model: nn.Module, images: Tensor, targets: Tensor, metrics: list[Any]) -> None:
    """Evaluate every metric for every method with pellucid, which adds its controls."""
    run(plan(model, images, targets, list(METHODS), metrics)).rows  # noqa: B018 - the property computes the results


def explain(model: nn.Module, inputs: Any, targets: Any, method: str, **options: Any) -> Any:
    """Explain with Quantus, adding the control `input`, which it lacks."""
    return np.array(inputs) if method == "input" else quantus.explain(model, inputs, targets, method=method, **options)


def theirs(model: nn.Module, images: Tensor, targets: Tensor, metrics: list[Any]) -> None:
    """Evaluate with Quantus, computing each explanation once for all metrics."""
    x, y = images.numpy(), targets.numpy()
    for name in (*METHODS.values(), *CONTROLS):
        options = {"method": name, "device": "cpu", "constant_value": 0.0}
        arguments = {"explain_func": explain, "explain_func_kwargs": options}
        relevance = explain(model, x, y, **options)
        for metric in metrics:
            metric(model=model, x_batch=x.copy(), y_batch=y, a_batch=relevance.copy(), device="cpu", **arguments)


def network() -> nn.Module:
    """Build pellucid's default network; it has one ReLU module per use, as captum requires."""
    torch.manual_seed(0)
    return MODELS["cnn"](channels=1, classes=10, image_size=(28, 28)).eval()


def seconds(call: Callable[[], None]) -> float:
    """Measure the CPU time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def compare(count: int, rounds: int) -> None:
    """Print one line per metric, and one for all metrics in a single call that shares explanations on both sides."""
    images = load_data("digits", Request(Path("unused"))).test.floats(slice(count))
    model = network()
    targets = model(images).argmax(1)
    each = {name: ([own], other) for name, (own, other) in contests().items()}
    together = ([one for own, _ in each.values() for one in own], [one for _, other in each.values() for one in other])
    ours(model, images[:2], targets[:2], each["continuity"][0])  # warm up lazy imports
    theirs(model, images[:2], targets[:2], each["continuity"][1])
    print(f"{'metric':28}{'pellucid s':>12}{'Quantus s':>12}{'ratio':>8}")
    for name, (own, other) in {**each, "all, in one call": together}.items():
        pairs = [
            (
                seconds(lambda own=own: ours(model, images, targets, own)),
                seconds(lambda other=other: theirs(model, images, targets, other)),
            )
            for _ in range(rounds)
        ]
        own_time, other_time = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:28}{own_time:12.2f}{other_time:12.2f}{other_time / own_time:8.1f}", flush=True)


def reference(path: Path) -> None:
    """Write Quantus's pixel flipping and parameter randomization of a small network, with all inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, REFERENCE_CLASSES)).eval()
    images = torch.rand(4, 1, 8, 8)
    images[:, :, 0, 0] = 0  # Quantus defines black as the smallest value
    targets = model(images).argmax(1)
    x, y = images.numpy(), targets.numpy()

    def gradient(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        leaf = torch.as_tensor(inputs).float().requires_grad_()
        chosen = model(leaf).gather(1, torch.as_tensor(targets).long()[:, None]).sum()
        return torch.autograd.grad(chosen, leaf)[0].numpy()

    relevance = gradient(model, x, y)
    flips = quantus.PixelFlipping(features_in_step=4, perturb_baseline="black", abs=False, normalise=False, **QUIET)(
        model=model, x_batch=x.copy(), y_batch=y, a_batch=relevance.copy(), device="cpu", softmax=True
    )
    test = quantus.MPRT(layer_order="top_down", seed=41, abs=True, normalise=False, **QUIET)
    similarity = test(
        model=model, x_batch=x.copy(), y_batch=y, a_batch=None, device="cpu", explain_func=gradient, softmax=True
    )
    layers = [np.asarray(values) for key, values in similarity.items() if key != "original"]
    weights = {f"weights.{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez_compressed(
        path,
        images=x,
        targets=y,
        relevance=relevance,
        pixel_flipping=np.array(flips),
        parameter_randomisation=np.stack(layers, axis=1),
        seed=42,
        **weights,
    )
    print({key: values.shape for key, values in np.load(path).items()})


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.reference:
        reference(options.reference)
    else:
        compare(options.images, options.rounds)


if __name__ == "__main__":
    main()
