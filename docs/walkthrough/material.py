"""What the notebooks and the gallery share: the pipeline's trained network, its test images, a grid of maps."""

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
from pellucid.artifacts.picture import to_png
from pellucid.core.errors import DataError
from pellucid.data._load import load_data
from pellucid.data._source import Request
from pellucid.plots.colours import scale_limit
from pellucid.plots.image_grid import Block, Label, image_grid

__all__ = ["Material", "Picture", "grid", "open_run", "with_pooling"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, eq=False)
class Material:
    """A trained network and what it was trained and tested on, floats in [0, 1]."""

    model: nn.Module
    """With the best weights, in eval mode."""
    images: Tensor
    """(image, channel, height, width): one recognised test image of each class."""
    labels: Tensor
    """(image,): 0, 1, 2, …"""
    classes: tuple[str, ...]
    test_images: Tensor
    test_labels: Tensor
    training_images: Tensor
    training_labels: Tensor
    title: str
    """The data set's name."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure that a notebook shows as it is, dot by dot."""

    figure: Figure

    def _repr_png_(self) -> bytes:
        return to_png(self.figure)


def open_run(folder: str | Path | None = None, images: int = 1000) -> Material:
    """The run in `folder`: by default that of the variable PELLUCID_RUN, or `save`, where `python runner.py` leaves it.

    At most `images` test images and as many training images are kept. Raises `SaveError` where there is no run,
    and `DataError` where the network recognises none of a class.
    """
    folder = Path(folder or os.environ.get("PELLUCID_RUN") or ROOT / "save")
    run = pellucid.load_run(folder)
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


def _first(is_wanted: Tensor, name: str, folder: Path) -> int:
    """The index of the first that is wanted."""
    if not is_wanted.any():
        raise DataError(f"the network in {folder} recognises no test image of class {name}; train it for more epochs.")
    return int(is_wanted.nonzero()[0])


def with_pooling(material: Material) -> nn.Sequential:
    """The network `cnn` with another end: global average pooling, and a linear layer fitted to the training images.

    The layers before it are the trained ones, unchanged.
    """
    assert isinstance(material.model, nn.Sequential)
    *trunk, _flatten, _linear = material.model
    body = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        features = body(material.training_images)
    head = nn.Linear(features.shape[1], len(material.classes))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    search = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(head(features), material.training_labels) + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    search.step(loss)
    return nn.Sequential(*body, head).eval().requires_grad_(False)


def grid(
    images: Tensor,
    maps: Mapping[str, Tensor],
    rows: Sequence[str | tuple[str, str]],
    title: str,
    subtitle: str = "Red: positive; blue: negative; white: zero. Below each name, where its scale ends.",
) -> Picture:
    """The images in the first column, then one column for each of `maps`, every one on its own scale around zero.

    Images are (row, channel, height, width); so are maps, which are summed over the channels.
    """
    values = {name: one.detach().float().sum(1, keepdim=True).cpu().numpy() for name, one in maps.items()}
    limits = {name: scale_limit(one) for name, one in values.items()}
    shown = np.stack([one / limits[name] for name, one in values.items()], axis=1)
    source = images.detach().float().cpu().numpy()[:, None]
    blocks = [Block(source), Block(shown, column=1, limit=1.0, meaning="share of the column's scale")]
    columns = [Label("source"), *(Label(name, f"±{limits[name]:.2g}") for name in maps)]
    labels = [Label(*([row] if isinstance(row, str) else row)) for row in rows]
    return Picture(image_grid(blocks, labels, columns, (title, subtitle)))
