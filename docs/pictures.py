"""Generate the pictures of docs/methods: `python docs/pictures.py [RUN] [FLAGS OF pellucid run]`.

RUN is the folder of a run (default: save/gallery). If there is no run, the pipeline trains its default network there.
`--only NAME` generates the picture of a single page.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid

sys.path.insert(0, str(Path(__file__).resolve().parent / "walkthrough"))
from material import Material, grid, open_run, with_pooling

from pellucid.plots.colours import signed_palette
from pellucid.storage.pictures import to_png

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures" / "methods"
ROWS = (2, 3, 4, 8)
"""Classes shown, each with its first correctly classified test image."""


@dataclass(frozen=True)
class Column:
    """One column of a picture: a method with its options, for the predicted class or the runner-up."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "predicted"
    network: str = "own"
    """`pooled` for the network with global average pooling, which CAM requires; `own` otherwise."""


def variants(family: str, *names: str) -> tuple[Column, ...]:
    """Return one column per variant, labeled without the family name."""
    return tuple(Column(name, f"{family}.{name}") for name in names)


def both_classes(*methods: str) -> tuple[Column, ...]:
    """Return two columns per method: the predicted class, and the runner-up."""
    return tuple(
        Column(f"{name}, {which}", name, target=target)
        for name in methods
        for which, target in (("predicted", "predicted"), ("runner-up", "runner_up"))
    )


PICTURES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "gradient": (
        "Sensitivity of the logit to each pixel",
        (
            Column("gradient", "gradient"),
            Column("gradient of the runner-up", "gradient", target="runner_up"),
            Column("absolute=True", "gradient", {"absolute": True}),
            Column("sensitivity", "sensitivity"),
            Column("gradient.baseline", "gradient.baseline"),
        ),
    ),
    "taylor": (
        "First-order effects: gradient times displacement",
        (
            Column("gradient", "gradient"),
            Column("input_x_gradient", "input_x_gradient"),
            Column("simple_taylor", "simple_taylor"),
        ),
    ),
    "smoothgrad": (
        "The gradient over noisy copies of each image",
        (
            Column("gradient", "gradient"),
            *(Column(f"noise_share={share}", "smoothgrad", {"noise_share": share}) for share in (0.05, 0.15, 0.5)),
            Column("squared", "smoothgrad.squared"),
            Column("variance", "smoothgrad.variance"),
        ),
    ),
    "integrated_gradients": (
        "Gradients along the path from a baseline",
        (
            Column("baseline 0 (black)", "integrated_gradients"),
            Column("baseline 0.5 (gray)", "integrated_gradients", {"baseline": 0.5}),
            Column("baseline 1 (white)", "integrated_gradients", {"baseline": 1.0}),
            Column("4 steps", "integrated_gradients", {"steps": 4}),
            Column("expected_gradients", "expected_gradients"),
            Column("gradient_shap", "gradient_shap"),
        ),
    ),
    "guided_backprop": (
        "Other backward passes through a ReLU",
        (Column("gradient", "gradient"), *both_classes("deconvnet", "guided_backprop")),
    ),
    "lrp": (
        "The logit of the predicted class, redistributed layer by layer",
        (
            *variants("lrp", "z"),
            Column("epsilon=0.25", "lrp.epsilon", {"epsilon": 0.25}),
            *variants("lrp", "gamma", "alpha_1_beta_0", "alpha_2_beta_1", "w_square", "flat", "z_box"),
            *variants("lrp", "sequential_preset_a_flat", "epsilon_plus_flat", "epsilon_gamma_box"),
        ),
    ),
    "deep_taylor": (
        "What excites the logit",
        (
            *both_classes("deep_taylor"),
            Column("deep_taylor.bounded", "deep_taylor.bounded"),
            Column("lrp.alpha_2_beta_1", "lrp.alpha_2_beta_1"),
        ),
    ),
    "deeplift": (
        "The change of the logit from a baseline",
        (
            Column("baseline 0 (black)", "deeplift"),
            Column("baseline 0.5 (gray)", "deeplift", {"baseline": 0.5}),
            Column("baseline 1 (white)", "deeplift", {"baseline": 1.0}),
            Column("integrated_gradients", "integrated_gradients"),
        ),
    ),
    "excitation_backprop": (
        "Which pixels most probably excited the explained logit",
        (*both_classes("excitation_backprop"), Column("lrp.z_plus", "lrp.z_plus")),
    ),
    "pattern": (
        "The signal, and its contribution",
        (
            Column("gradient", "gradient"),
            Column("pattern.net", "pattern.net"),
            Column("input_x_gradient", "input_x_gradient"),
            Column("pattern.attribution", "pattern.attribution"),
        ),
    ),
    "cam": (
        "Regions that support the class",
        (
            Column("cam (network with pooling)", "cam", network="pooled"),
            Column("grad_cam, predicted", "grad_cam"),
            Column("grad_cam, runner-up", "grad_cam", target="runner_up"),
            Column("grad_cam_pp", "grad_cam_pp"),
            Column("layer_cam", "layer_cam"),
            Column("layer_cam, earlier layer", "layer_cam", {"layer": "5"}),
            Column("hires_cam", "hires_cam"),
            Column("score_cam", "score_cam"),
            Column("ablation_cam", "ablation_cam"),
            Column("eigen_cam", "eigen_cam"),
            Column("guided_grad_cam", "guided_grad_cam"),
        ),
    ),
    "perturbation": (
        "How the logit changes when parts are hidden",
        (
            Column("occlusion, 4×4 pixels", "occlusion", {"window": 4, "stride": 1}),
            Column("occlusion, 8×8 pixels", "occlusion", {"window": 8, "stride": 2}),
            Column("rise", "rise"),
            Column("rise, centred=False", "rise", {"centred": False}),
            Column("shapley_sampling", "shapley_sampling"),
            Column("kernel_shap", "kernel_shap"),
            Column("lime", "lime"),
            Column("feature_ablation", "feature_ablation", {"patch": 4}),
            Column("feature_permutation", "feature_permutation", {"patch": 4}),
        ),
    ),
    "attention": (
        "Explanations of a small vision transformer",
        (
            Column("gradient", "gradient"),
            Column("input_x_gradient", "input_x_gradient"),
            Column("integrated_gradients", "integrated_gradients"),
            Column("deeplift", "deeplift"),
            Column("lrp.epsilon", "lrp.epsilon"),
            Column("lrp.epsilon, runner-up", "lrp.epsilon", target="runner_up"),
            Column("attention_rollout", "attention_rollout"),
        ),
    ),
    "controls": (
        "Maps that don't depend on the network",
        (
            Column("input", "input"),
            Column("sobel", "sobel"),
            Column("random", "random"),
            Column("constant", "constant"),
        ),
    ),
}
"""Title and columns of each page's picture."""


TRANSFORMER = "pictures:patch_transformer"
NETWORKS = {"attention": ("transformer", ("--model", TRANSFORMER))}
"""Pages that need a different network: subfolder of RUN, and training flags."""


class PatchTransformer(nn.Module):
    """A small vision transformer: 7×7 patches, two encoder layers, mean pooling over tokens, a linear head."""

    def __init__(self, channels: int, classes: int, patches: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 7, stride=7)
        self.positions = nn.Parameter(0.02 * torch.randn(1, patches, width))
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        ]
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, class)."""
        tokens = self.embed(images).flatten(2).mT + self.positions
        return self.head(self.norm(self.layers(tokens)).mean(1))


def patch_transformer(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build the network of the page on attention, for `--model`."""
    return PatchTransformer(channels, classes, (image_size[0] // 7) * (image_size[1] // 7))


def draw(page: str, material: Material) -> Path:
    """Write the picture of one page and return its path."""
    title, columns = PICTURES[page]
    images, labels = material.images[list(ROWS)], material.labels[list(ROWS)]
    order = material.model(images).argsort(1, descending=True)
    targets = {"predicted": order[:, 0], "runner_up": order[:, 1]}
    maps = {column.label: explain(column, material, images, targets[column.target]) for column in columns}
    if any(column.target == "runner_up" for column in columns):
        rows = [
            (material.classes[int(label)], f"then {material.classes[int(second)]}")
            for label, second in zip(labels, order[:, 1], strict=True)
        ]
    else:
        rows = [(material.classes[int(label)], "") for label in labels]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{page}.png"
    path.write_bytes(with_palette(to_png(grid(images, maps, rows, title).figure)))
    return path


def explain(column: Column, material: Material, images: Tensor, target: Tensor) -> Tensor:
    """Compute the maps of one column."""
    model = with_pooling(material) if column.network == "pooled" else material.model
    analyzer = pellucid.create_analyzer(column.method, model, **column.options)
    if not analyzer.method.is_ready:
        analyzer.fit([material.training_images])
    return analyzer.analyze(images, target)


def with_palette(png: bytes) -> bytes:
    """Reduce the picture to 256 colors, those of the signed colormap and grays: a smaller file that looks the same."""
    # 176 colors for the colormap and 80 grays for images and text make up the 256 entries of the palette.
    scale, grays = signed_palette()(np.linspace(0, 1, 176))[:, :3] * 255, np.linspace(0, 255, 80).repeat(3)
    palette = np.concatenate([scale, grays.reshape(-1, 3)]).round()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    colors, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = np.square(colors[:, None] - palette).sum(2).argmin(1).astype(np.uint8)
    picture = Image.fromarray(nearest[index].reshape(pixels.shape[:2]), "P")
    picture.putpalette(palette.astype(int).flatten().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


@cache
def open_or_train(folder: Path, *flags: str) -> Material:
    """Open the run in `folder`, training it first if there is none."""
    if not (folder / "run.json").is_file():
        train = [sys.executable, str(ROOT / "runner.py"), "--save", str(folder), "--hooks", "none", *flags]
        paths = os.pathsep.join([str(ROOT / "docs"), os.environ.get("PYTHONPATH", "")])
        subprocess.run(train, check=True, env={**os.environ, "PYTHONPATH": paths})  # noqa: S603
    return open_run(folder, trust=True)  # the transformer is a function of this file


def main(arguments: list[str]) -> None:
    """Train if there is no run yet, and write the pictures."""
    only: Iterable[str] = PICTURES
    if "--only" in arguments:
        position = arguments.index("--only")
        only = [arguments[position + 1]]
        arguments = arguments[:position] + arguments[position + 2 :]
    has_folder = bool(arguments) and not arguments[0].startswith("-")
    folder = Path(arguments[0]) if has_folder else ROOT / "save" / "gallery"
    flags = arguments[has_folder:]
    torch.set_num_threads(1)
    for page in only:
        name, more = NETWORKS.get(page, ("", ()))
        path = draw(page, open_or_train(folder / name, *more, *flags))
        sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
