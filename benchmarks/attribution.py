"""Images per second of pellucid, captum and zennit on one network, side by side.

One process, one thread, the three interleaved, medians: `python benchmarks/attribution.py [--rounds 9] [--only NAME]`.
The network is a small CNN for 28×28 images: two 3×3 convolutions, max-pooling, two dense layers; 128 images at once.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import captum.attr
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat, LayerMapComposite, layer_map_base
from zennit.rules import AlphaBeta, Epsilon, Gamma
from zennit.types import Linear

import pellucid

BATCH = 128


def network() -> nn.Module:
    """The network of the benchmark; fresh ReLU modules, since captum asks for one per use."""
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


def by_zennit(model: nn.Module, composite: object, images: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """A run of zennit, its hooks set each time as a user would."""

    def run() -> Tensor:
        with Gradient(model=model, composite=composite) as attributor:
            return attributor(images, lambda logits: F.one_hot(targets, 10) * logits.detach())[1]

    return run


def everywhere(rule: Callable[[], object]) -> LayerMapComposite:
    """Zennit's composite with one rule for every kernel layer."""
    return LayerMapComposite(layer_map=[*layer_map_base(1e-6), (Linear, rule())])


def by_captum(attribution: object, images: Tensor, targets: Tensor, **options: object) -> Callable[[], Tensor]:
    """A run of captum."""
    return lambda: attribution.attribute(images, target=targets, **options)


def contests(
    images: Tensor, targets: Tensor
) -> dict[str, tuple[float, float, Callable[[], Tensor], Callable[[], Tensor]]]:
    """Name to (least ratio, aim, ours, theirs)."""
    model, theirs = network(), network()

    def ours(name: str, **options: object) -> Callable[[], Tensor]:
        analyzer = pellucid.create_analyzer(name, model, **options)
        return lambda: analyzer.analyze(images, targets)

    def zennit(composite: object) -> Callable[[], Tensor]:
        return by_zennit(theirs, composite, images, targets)

    smooth = captum.attr.NoiseTunnel(captum.attr.Saliency(theirs))
    path = captum.attr.IntegratedGradients(theirs)
    noisy = {"nt_type": "smoothgrad", "nt_samples": 32, "stdevs": 0.15, "abs": False}
    return {
        "guided_backprop": (
            1.3,
            1.7,
            ours("guided_backprop"),
            by_captum(captum.attr.GuidedBackprop(theirs), images, targets),
        ),
        "deconvnet": (1.3, 1.7, ours("deconvnet"), by_captum(captum.attr.Deconvolution(theirs), images, targets)),
        "lrp.epsilon": (1.7, 2.5, ours("lrp.epsilon"), zennit(everywhere(lambda: Epsilon(1e-6)))),
        "lrp.epsilon_plus_flat": (1.8, 3, ours("lrp.epsilon_plus_flat"), zennit(EpsilonPlusFlat())),
        "lrp.alpha_1_beta_0": (3, 5, ours("lrp.alpha_1_beta_0"), zennit(everywhere(lambda: AlphaBeta(1, 0)))),
        "lrp.alpha_2_beta_1": (3, 5, ours("lrp.alpha_2_beta_1"), zennit(everywhere(lambda: AlphaBeta(2, 1)))),
        "lrp.gamma": (3, 5, ours("lrp.gamma"), zennit(everywhere(lambda: Gamma(0.25)))),
        "deeplift": (4.5, 7, ours("deeplift"), by_captum(captum.attr.DeepLift(theirs), images, targets)),
        "smoothgrad": (2, 3, ours("smoothgrad"), by_captum(smooth, images, targets, **noisy)),
        "smoothgrad, captum's best": (
            1.2,
            1.6,
            ours("smoothgrad"),
            by_captum(smooth, images, targets, nt_samples_batch_size=1, **noisy),
        ),
        "integrated_gradients": (
            2,
            3,
            ours("integrated_gradients", steps=50),
            by_captum(path, images, targets, n_steps=50),
        ),
        "integrated_gradients, captum's best": (
            1.2,
            1.6,
            ours("integrated_gradients", steps=50),
            by_captum(path, images, targets, n_steps=50, internal_batch_size=BATCH),
        ),
    }


def seconds(run: Callable[[], Tensor]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, 28, 28, generator=generator)
    targets = torch.randint(10, (BATCH,), generator=generator)
    print(f"{'method':38}{'ours /s':>9}{'theirs /s':>11}{'ratio':>8}{'least':>7}{'aim':>6}")
    for name, (least, aim, ours, theirs) in contests(images, targets).items():
        if options.only not in name:
            continue
        rounds = max(3, options.rounds // 3) if "grad" in name else options.rounds
        ours(), theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name:38}{BATCH / mine:9.0f}{BATCH / other:11.0f}{ratio:8.2f}{least:7.1f}{aim:6.1f}", flush=True)


if __name__ == "__main__":
    main()
