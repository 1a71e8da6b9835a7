"""Helpers shared by the notebooks and the gallery: the trained network, its test images, a grid of maps."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import pellucid
from pellucid.core.errors import DataError
from pellucid.data import Request, load_data
from pellucid.plots.colours import scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label
from pellucid.storage.pictures import to_png

__all__ = ["Material", "Picture", "grid", "open_run", "with_pooling"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, eq=False)
class Material:
    """A trained network with its training and test images, as floats in [0, 1]."""

    model: nn.Module
    """The best checkpoint, in eval mode."""
    images: Tensor
    """One correctly classified test image per class, of shape (image, channel, height, width)."""
    labels: Tensor
    """The labels 0, 1, 2, …, of shape (image,)."""
    classes: tuple[str, ...]
    test_images: Tensor
    test_labels: Tensor
    training_images: Tensor
    training_labels: Tensor
    title: str
    """Name of the data set."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure that a notebook displays at its native resolution."""

    figure: Figure

    def _repr_png_(self) -> bytes:
        return to_png(self.figure)


def open_run(folder: str | Path | None = None, images: int = 1000, *, trust: bool = False) -> Material:
    """Open the run in `folder`, by default `$PELLUCID_RUN` or else `save`, the output folder of `python runner.py`.

    Keeps at most `images` test images and as many training images. Raises `SaveError` if there is no run, and
    `DataError` if the network classifies no image of some class correctly. `trust` allows the run to import the
    function that it names as its model.
    """
    folder = Path(folder or os.environ.get("PELLUCID_RUN") or ROOT / "save")
    run = pellucid.load_run(folder, trust=trust)
    config, record = run.config, json.loads((folder / "run.json").read_text(encoding="utf-8"))
    request = Request(
        folder=Path(config["data_dir"] or folder / "data"),
        mirrors=tuple(config["mirror"]),
        image_size=config["image_size"],
        seed=config["seed"],
    )
    limits = {name: config[name] for name in ("limit_train", "limit_test")}
    data = load_data(record["dataset"]["name"], request, **limits)
    test, labels = data.test.floats(slice(images)), data.test.labels[:images]
    is_right = run.model(test).argmax(1) == labels
    chosen = [_first(is_right & (labels == index), run.classes[index], folder) for index in range(len(run.classes))]
    return Material(
        model=run.model,
        images=test[chosen],
        labels=labels[chosen],
        classes=run.classes,
        test_images=test,
        test_labels=labels,
        training_images=data.train.floats(slice(images)),
        training_labels=data.train.labels[:images],
        title=data.title,
    )


def _first(is_eligible: Tensor, name: str, folder: Path) -> int:
    """Return the index of the first eligible image."""
    if not is_eligible.any():
        raise DataError(
            f"The network in {folder} classifies no test image of class {name} correctly. Train it for more epochs."
        )
    return int(is_eligible.nonzero()[0])


def with_pooling(material: Material) -> nn.Sequential:
    """Replace the head of a convolutional network by global average pooling and a linear layer.

    The new layer is fitted to the training images; the trained layers below are unchanged.
    """
    assert isinstance(material.model, nn.Sequential)
    *trunk, _flatten, _linear = material.model
    body = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        features = body(material.training_images)
    head = nn.Linear(features.shape[1], len(material.classes))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(features), material.training_labels) + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return nn.Sequential(*body, head).eval().requires_grad_(False)


def grid(
    images: Tensor,
    maps: Mapping[str, Tensor],
    rows: Sequence[str | tuple[str, str]],
    title: str,
    subtitle: str = "Red is positive, blue negative, white zero. The number below each name is the end of its scale.",
) -> Picture:
    """Plot the images in the first column, then one column per map, each on its own symmetric scale.

    Images and maps have shape (row, channel, height, width); maps are summed over the channels.
    """
    values = {name: one.detach().float().sum(1, keepdim=True).cpu().numpy() for name, one in maps.items()}
    limits = {name: scale_limit(one) for name, one in values.items()}
    shown = np.stack([one / limits[name] for name, one in values.items()], axis=1)
    source = images.detach().float().cpu().numpy()[:, None]
    blocks = [Block(source), Block(shown, column=1, limit=1.0, meaning="share of the column's scale")]
    columns = [Label("source"), *(Label(name, f"±{limits[name]:.2g}") for name in maps)]
    labels = [Label(*([row] if isinstance(row, str) else row)) for row in rows]
    return Picture(image_grid(blocks, labels, columns, (title, subtitle)))
