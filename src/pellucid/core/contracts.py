"""What the parts hand to one another: image sets, data sets, and the artifacts that hooks make."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.core.types import Images, Labels, Masks, Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Artifact", "DataSplits", "EmbeddingTable", "ImageSet", "Kind"]

Kind = Literal["figure", "film", "arrays", "embedding", "data", "log"]
"""What the file of a manifest entry is."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, kept as one tensor.

    Raises `DataError` where images and labels do not belong together.

    >>> import torch
    >>> pair = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> len(pair), pair.floats().dtype
    (2, torch.float32)
    """

    pixels: Pixels
    """(image, channel, height, width): bytes 0…255, or float32 in [0, 1] where bytes would round."""
    labels: Labels
    """(image,): class indices, int64."""
    masks: Masks | None = None
    """(image, height, width): where what decides the class is; None where nobody knows."""

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise DataError(f"{len(self.pixels)} images came with {len(self.labels)} labels; give one label per image.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: torch.Tensor | slice | list[int]) -> "ImageSet":
        """The images at `indices`, as a set of their own."""
        masks = None if self.masks is None else self.masks[indices]
        return ImageSet(self.pixels[indices], self.labels[indices], masks)

    def floats(self, indices: torch.Tensor | slice | list[int] = slice(None)) -> Images:
        """The images at `indices` as a model gets them: float32 in [0, 1]."""
        return to_floats(self.pixels[indices])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width


def to_floats(pixels: Pixels) -> Images:
    """Bytes 0…255 to float32 in [0, 1]; floats unchanged."""
    return pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set, ready to train on."""

    requested: str
    """What `--dataset` asked for, such as `auto`."""
    name: str
    """What it is: `mnist`, `digits`, `folder:PATH` or `module:function`."""
    title: str
    """Its name in pictures, such as "MNIST"."""
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    """The name of each class, by index."""
    sha256: str
    """Checksum of all images and labels as they are used."""
    shift_share: float = 0.0
    """Training images are shifted at random by up to this share of their size."""
    default_epochs: int = 10
    notice: str | None = None
    """What the user must know about this data, such as that it replaces what was asked for."""


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Points for TensorBoard's projector."""

    points: np.ndarray
    """(point, feature) floats."""
    columns: Mapping[str, list[str]]
    """One label per point in each named column."""
    thumbnails: np.ndarray
    """(point, height, width, channel) bytes."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a hook made: a figure, arrays and numbers under one name, or a table of embedded points.

    The store writes `plots/HOOK/epoch_NNN.png` for the figure, `.npz` for the arrays and `.json` for the numbers;
    with a `name`, `epoch_NNN_NAME`. The hook knows nothing of files.
    """

    caption: str
    """One line that tells what is seen, with units and data."""
    name: str = ""
    """Tells several artifacts of one hook apart: lower case, no spaces."""
    figure: "Figure | None" = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON values (NaN is written as null) that a reader of the picture would want to compute with."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """The few numbers worth a curve over the epochs in TensorBoard; a hook that runs at the end has none."""
    embedding: EmbeddingTable | None = None
