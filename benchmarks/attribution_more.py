"""Compare class activation maps and perturbation methods with captum, on the network of `attribution.py`.

KernelSHAP and LIME explain one image, 28×28 and 64×64 in color, with as many samples for both libraries: once with
captum's default of one sample per forward pass, and once with the fastest batch size for captum. Captum has no
Score-CAM, Ablation-CAM, Eigen-CAM and HiResCAM, so these are compared with plain loops in torch, which check nothing.

One process, one thread, alternating between the two libraries, medians of CPU time:
`python benchmarks/attribution_more.py [--rounds 5] [--only NAME] [--batch 128]`.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import captum.attr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from attribution import network
from pellucid.attribution._segments import patches_of

Contest = tuple[float, float, Callable[[], Tensor], Callable[[], Tensor]]


def contests(images: Tensor, targets: Tensor) -> dict[str, Contest]:
    """Map names to (minimum ratio, target ratio, our call, their call)."""
    model, theirs = network(), network()
    last = theirs[3]

    def ours(name: str, **options: object) -> Callable[[], Tensor]:
        analyzer = pellucid.create_analyzer(name, model, **options)
        return lambda: analyzer.analyze(images, targets)

    def grad_cam() -> Tensor:
        plain = captum.attr.LayerGradCam(theirs, last).attribute(images, target=targets, relu_attributions=True)
        return captum.attr.LayerAttribution.interpolate(plain, images.shape[2:], "bilinear")

    def guided_grad_cam() -> Tensor:
        pixels = images.clone().requires_grad_()
        method = captum.attr.GuidedGradCam(theirs, last)
        return method.attribute(pixels, target=targets, interpolate_mode="bilinear")

    def occlusion(window: int, stride: int) -> Callable[[], Tensor]:
        sizes = {"sliding_window_shapes": (1, window, window), "strides": (1, stride, stride)}
        return lambda: captum.attr.Occlusion(theirs).attribute(images, target=targets, baselines=0, **sizes)

    def shapley() -> Tensor:
        mask = patches_of(images.shape[1:], (1, 7, 7))[None]
        return captum.attr.ShapleyValueSampling(theirs).attribute(
            images, target=targets, feature_mask=mask, n_samples=2
        )

    return {
        "grad_cam": (1.2, 1.5, ours("grad_cam"), grad_cam),
        "guided_grad_cam": (1.2, 1.5, ours("guided_grad_cam"), guided_grad_cam),
        "occlusion, window 7": (1.5, 2, ours("occlusion", window=7, stride=7), occlusion(7, 7)),
        "occlusion, window 4, stride 2": (1.5, 2, ours("occlusion", window=4, stride=2), occlusion(4, 2)),
        "shapley_sampling": (1, 1.5, ours("shapley_sampling", patch=7, permutations=2), shapley),
    }


def plain_cams(images: Tensor, targets: Tensor) -> dict[str, Contest]:
    """Return the comparisons of class activation maps that captum lacks, on eight images."""
    images, targets = images[:8], targets[:8]
    model, size = network(), images.shape[2:]
    below, above = model[:4], model[4:]

    def shown(maps: Tensor) -> Tensor:
        return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)

    def scores(inputs: Tensor, part: nn.Module) -> Tensor:
        return part(inputs).gather(1, targets[:, None])[:, 0]

    @torch.no_grad()
    def score_cam() -> Tensor:
        maps = below(images)
        large = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
        masks = (large - low) / (high - low).clamp(min=1e-8)
        weights = torch.stack([scores(images * mask[:, None], model) for mask in masks.unbind(1)], 1).softmax(1)
        return shown(torch.einsum("bk,bkyx->byx", weights, maps).clamp(min=0))

    @torch.no_grad()
    def ablation_cam() -> Tensor:
        maps = below(images)
        kept = 1 - torch.eye(maps.shape[1])
        drops = scores(maps, above)[:, None] - torch.stack([scores(maps * k[:, None, None], above) for k in kept], 1)
        return shown(torch.einsum("bk,bkyx->byx", drops, maps).clamp(min=0))

    @torch.no_grad()
    def eigen_cam() -> Tensor:
        maps = below(images)
        matrix = maps.flatten(2).mT
        loadings = torch.linalg.svd(matrix, full_matrices=False)[2][:, 0]
        plain = torch.einsum("bpk,bk->bp", matrix, loadings * loadings.sum(1, keepdim=True).sign())
        return shown(plain.unflatten(1, maps.shape[2:]))

    def hires_cam() -> Tensor:
        maps = below(images).detach().requires_grad_()
        (slope,) = torch.autograd.grad(scores(maps, above).sum(), maps)
        return shown((maps * slope).sum(1).detach())

    plain = {"score_cam": score_cam, "ablation_cam": ablation_cam, "eigen_cam": eigen_cam, "hires_cam": hires_cam}
    found: dict[str, Contest] = {}
    for name, theirs in plain.items():
        analyzer = pellucid.create_analyzer(name, model, layer="3")
        own = partial(analyzer.analyze, images, targets)
        torch.testing.assert_close(own(), theirs(), rtol=1e-3, atol=1e-5)
        found[f"{name}, plain loop, 8 images"] = (0.5, 1, own, theirs)
    return found


def small_network(channels: int, size: int) -> nn.Module:
    """Build the network of `attribution.py` for images of another size."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    hidden = nn.Linear(64 * ((size - 4) // 2) ** 2, 128)
    return nn.Sequential(*layers, hidden, nn.ReLU(), nn.Linear(128, 10)).eval()


def surrogates(samples: int = 256) -> dict[str, Contest]:
    """Return the comparisons of KernelSHAP and LIME, on one image each."""
    found: dict[str, Contest] = {}
    for channels, size in ((1, 28), (3, 64)):
        model, side = small_network(channels, size), -(-size // 7)
        image = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
        mask = patches_of(image.shape[1:], (channels, side, side))[None]
        for name, options, kind in (
            ("kernel_shap", {"coalitions": samples}, captum.attr.KernelShap),
            ("lime", {"samples": samples, "surrogate": "lasso"}, captum.attr.Lime),
        ):
            analyzer, method = pellucid.create_analyzer(name, model, **options), kind(model)

            def ours(analyzer: pellucid.Analyzer = analyzer, image: Tensor = image) -> Tensor:
                return analyzer.analyze(image, 0)

            def theirs(at_once: int, method=method, image: Tensor = image, mask: Tensor = mask) -> Tensor:
                options = {"n_samples": samples, "perturbations_per_eval": at_once}
                return method.attribute(image, target=0, feature_mask=mask, **options)

            theirs(1)
            best = min((1, 4, 8, 16, 32, 64), key=lambda at_once: seconds(partial(theirs, at_once)))
            found[f"{name}, {size}×{size}"] = (3, 3, ours, partial(theirs, 1))
            found[f"{name}, {size}×{size}, captum's best ({best})"] = (1, 1.2, ours, partial(theirs, best))
    return found


def rows(images: Tensor, targets: Tensor, only: str) -> dict[str, Contest]:
    """Return all comparisons; those of KernelSHAP and LIME, whose setup takes a while, only if they are wanted."""
    found = {**contests(images, targets), **plain_cams(images, targets)}
    is_surrogate = not only or any(only.startswith(name) for name in ("kernel_shap", "lime"))
    return {**found, **surrogates()} if is_surrogate else found


def seconds(run: Callable[[], Tensor]) -> float:
    """Measure the CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 1, 28, 28, generator=generator)
    targets = torch.randint(10, (options.batch,), generator=generator)
    print(f"{'method':44}{'ours /s':>9}{'theirs /s':>11}{'ratio':>8}{'bound':>7}{'aim':>6}")
    for name, (least, aim, ours, theirs) in rows(images, targets, options.only).items():
        if options.only not in name:
            continue
        ours(), theirs()  # warm up
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        count = 1 if "×" in name else 8 if "8 images" in name else len(images)
        speeds = f"{count / mine:9.1f}{count / other:11.1f}"
        print(f"{name:44}{speeds}{ratio:8.2f}{least:7.1f}{aim:6.1f}", flush=True)


if __name__ == "__main__":
    main()
