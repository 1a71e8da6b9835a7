"""Compare the speed of pellucid, captum and zennit on one network, in images per second.

    python benchmarks/attribution.py [--data FOLDER_WITH_THE_FOUR_GZ_FILES] [--json FILE] [--rounds 9] [--only NAME]

One process, one thread, alternating between the two libraries, medians of CPU time. The network is a small CNN for
28×28 images: two 3×3 convolutions, max-pooling, two dense layers; batches of 128 images. Prints a table with a bound
for each claim. The exit code is 1 if a bound is missed.
"""

import argparse
import gzip
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

import captum.attr
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat, LayerMapComposite, layer_map_base
from zennit.rules import AlphaBeta, Epsilon, Gamma
from zennit.types import Linear

import pellucid

BATCH = 128


@dataclass(frozen=True)
class Row:
    """One claim and its measurement."""

    claim: str
    ours: str
    theirs: str
    measured: float
    bound: str
    aim: float
    passed: bool


def network() -> nn.Module:
    """Build the benchmark network; captum requires a separate ReLU module per use."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).eval()


def zennit_call(model: nn.Module, composite: object, images: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """Return a call of zennit that registers its hooks every time, as a user would."""

    def run() -> Tensor:
        with Gradient(model=model, composite=composite) as attributor:
            return attributor(images, lambda logits: F.one_hot(targets, 10) * logits.detach())[1]

    return run


def uniform_composite(rule: Callable[[], object]) -> LayerMapComposite:
    """Build a zennit composite with one rule for all convolutions and dense layers."""
    return LayerMapComposite(layer_map=[*layer_map_base(1e-6), (Linear, rule())])


def captum_call(attribution: object, images: Tensor, targets: Tensor, **options: object) -> Callable[[], Tensor]:
    """Return a call of captum."""
    return lambda: attribution.attribute(images, target=targets, **options)


def contests(
    images: Tensor, targets: Tensor
) -> dict[str, tuple[float, float, Callable[[], Tensor], Callable[[], Tensor]]]:
    """Map names to (minimum ratio, target ratio, our call, their call)."""
    model, theirs = network(), network()

    def ours(name: str, **options: object) -> Callable[[], Tensor]:
        analyzer = pellucid.create_analyzer(name, model, **options)
        return lambda: analyzer.analyze(images, targets)

    def zennit(composite: object) -> Callable[[], Tensor]:
        return zennit_call(theirs, composite, images, targets)

    smooth = captum.attr.NoiseTunnel(captum.attr.Saliency(theirs))
    path = captum.attr.IntegratedGradients(theirs)
    noisy = {"nt_type": "smoothgrad", "nt_samples": 32, "stdevs": 0.15, "abs": False}
    return {
        "guided_backprop": (
            1.3,
            1.7,
            ours("guided_backprop"),
            captum_call(captum.attr.GuidedBackprop(theirs), images, targets),
        ),
        "deconvnet": (1.3, 1.7, ours("deconvnet"), captum_call(captum.attr.Deconvolution(theirs), images, targets)),
        "lrp.epsilon": (1.7, 2.5, ours("lrp.epsilon"), zennit(uniform_composite(lambda: Epsilon(1e-6)))),
        "lrp.epsilon_plus_flat": (1.8, 3, ours("lrp.epsilon_plus_flat"), zennit(EpsilonPlusFlat())),
        "lrp.alpha_1_beta_0": (3, 5, ours("lrp.alpha_1_beta_0"), zennit(uniform_composite(lambda: AlphaBeta(1, 0)))),
        "lrp.alpha_2_beta_1": (3, 5, ours("lrp.alpha_2_beta_1"), zennit(uniform_composite(lambda: AlphaBeta(2, 1)))),
        "lrp.gamma": (3, 5, ours("lrp.gamma"), zennit(uniform_composite(lambda: Gamma(0.25)))),
        "deeplift": (4.5, 7, ours("deeplift"), captum_call(captum.attr.DeepLift(theirs), images, targets)),
        "smoothgrad": (2, 3, ours("smoothgrad"), captum_call(smooth, images, targets, **noisy)),
        "smoothgrad, captum's best": (
            1.2,
            1.6,
            ours("smoothgrad"),
            captum_call(smooth, images, targets, nt_samples_batch_size=1, **noisy),
        ),
        "integrated_gradients": (
            2,
            3,
            ours("integrated_gradients", steps=50),
            captum_call(path, images, targets, n_steps=50),
        ),
        "integrated_gradients, captum's best": (
            1.2,
            1.6,
            ours("integrated_gradients", steps=50),
            captum_call(path, images, targets, n_steps=50, internal_batch_size=BATCH),
        ),
    }


def seconds(run: Callable[[], Tensor]) -> float:
    """Measure the CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def speeds(chosen: str, rounds: int) -> Iterator[Row]:
    """Measure each comparison, alternating between the two libraries."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, 28, 28, generator=generator)
    targets = torch.randint(10, (BATCH,), generator=generator)
    for name, (least, aim, ours, theirs) in contests(images, targets).items():
        if chosen not in name:
            continue
        ours(), theirs()  # warm up
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(max(3, rounds // 3) if "grad" in name else rounds)]
        own, other = (BATCH / statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        yield Row(name, f"{own:.0f}", f"{other:.0f}", ratio, f"≥ {least}", aim, ratio >= least)


def trained(folder: Path) -> tuple[nn.Module, Tensor]:
    """Train the network for two epochs on 12,000 MNIST images; return it with 64 test images."""
    model = network()
    images, labels = pixels(folder, "train-images-idx3-ubyte.gz"), digits(folder, "train-labels-idx1-ubyte.gz")
    optimizer = torch.optim.Adam(model.parameters())
    for start in [*range(0, 12000, BATCH)] * 2:
        loss = F.cross_entropy(model(images[start : start + BATCH]), labels[start : start + BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, pixels(folder, "t10k-images-idx3-ubyte.gz")[:64]


def pixels(folder: Path, name: str) -> Tensor:
    """Read images of shape (image, 1, 28, 28) in [0, 1]."""
    content = np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=16)  # skip the IDX header
    return torch.from_numpy(content.astype(np.float32) / 255).view(-1, 1, 28, 28)


def digits(folder: Path, name: str) -> Tensor:
    """Read the class of each image."""
    content = np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=8)  # skip the IDX header
    return torch.from_numpy(content.astype(np.int64))


def refinement(folder: Path) -> Iterator[Row]:
    """Measure the evaluations used with `tolerance=0.01` on a trained network, and the error relative to 600 points."""
    model, images = trained(folder)
    refined = pellucid.create_analyzer("integrated_gradients", model, steps=600, tolerance=0.01).explain(images)
    reference = pellucid.create_analyzer("integrated_gradients", model, steps=600).analyze(images)
    error = (refined.relevance - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    spent, error_percent = float(refined.evaluations.double().mean()), 100 * float(error.mean())
    yield Row("integrated_gradients to 1%: evaluations", f"{spent:.1f}", "", spent, "≤ 25", 12, spent <= 25)
    yield Row(
        "integrated_gradients to 1%: map error, %",
        f"{error_percent:.2f}",
        "",
        error_percent,
        "≤ 4",
        3.5,
        error_percent <= 4,
    )


def main() -> int:
    """Measure and print all comparisons; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only names that contain this text")
    parser.add_argument("--data", type=Path, help="folder with the .gz files of MNIST, for integrated_gradients to 1%%")
    parser.add_argument("--json", type=Path, help="output file for all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'method':44}{'ours':>7}{'theirs':>8}{'measured':>10}{'bound':>8}{'aim':>6}   (images per second)")
    rows = []
    refinements = refinement(options.data) if options.data and options.only in "integrated_gradients" else ()
    for row in chain(speeds(options.only, options.rounds), refinements):
        rows.append(row)
        passed = "pass" if row.passed else "MISSED"
        print(
            f"{row.claim:44}{row.ours:>7}{row.theirs:>8}{row.measured:10.2f}{row.bound:>8}{row.aim:6.1f}   {passed}",
            flush=True,
        )
    if options.json:
        versions = {name: metadata.version(name) for name in ("torch", "captum", "zennit")}
        content = {"versions": versions, "rounds": options.rounds, "claims": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
