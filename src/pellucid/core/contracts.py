"""Data types exchanged between packages: image sets, data splits, and the artifacts that hooks produce."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.core.types import Images, Labels, Masks, Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Artifact", "DataSplits", "EmbeddingTable", "ImageSet", "Kind", "Metadata"]

Kind = Literal["figure", "film", "arrays", "embedding", "data", "log"]
"""File kind of a manifest entry."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images, stored as one tensor.

    Raises `DataError` if the numbers of images and labels differ.

    >>> import torch
    >>> pair = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> len(pair), pair.floats().dtype
    (2, torch.float32)
    """

    pixels: Pixels
    """(image, channel, height, width): uint8 in 0…255, or float32 in [0, 1] if bytes would round the values."""
    labels: Labels
    """(image,): class indices, int64."""
    masks: Masks | None = None
    """(image, height, width): ground-truth masks of the pixels that decide the class; None if unknown."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Pixel values drawn as black and white. Other than 0 and 1 only for a user's images whose normalization is
    unknown; their pixels are then floats of any value."""

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise DataError(f"got {len(self.pixels)} images but {len(self.labels)} labels; give one label per image.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: torch.Tensor | slice | list[int]) -> "ImageSet":
        """Return the subset at `indices` as a new image set."""
        masks = None if self.masks is None else self.masks[indices]
        return ImageSet(self.pixels[indices], self.labels[indices], masks, self.scale)

    def floats(self, indices: torch.Tensor | slice | list[int] = slice(None)) -> Images:
        """Return the images at `indices` as model input: float32 in [0, 1]."""
        return to_floats(self.pixels[indices])

    def shown(self, indices: torch.Tensor | slice | list[int] = slice(None)) -> Images:
        """Return the images at `indices` as they are drawn: float32 in [0, 1], mapped from `scale`."""
        images = self.floats(indices)
        low, high = self.scale
        return images if (low, high) == (0, 1) else ((images - low) / (high - low)).clamp(0, 1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width


def to_floats(pixels: Pixels) -> Images:
    """Convert uint8 0…255 to float32 in [0, 1]; floats are returned unchanged."""
    # in place on the copy that the conversion makes
    return pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set split into training, validation and test images, ready for training."""

    requested: str
    """The value of `--dataset`, such as `auto`."""
    name: str
    """The resolved name: `mnist`, `digits`, `folder:PATH` or `module:function`."""
    title: str
    """Display name for figures, such as "MNIST"."""
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    """Class names, by index."""
    sha256: str
    """Checksum of all images and labels after limits and splitting."""
    shift_share: float = 0.0
    """Random shift augmentation: the largest shift, as a share of the image size, rounded to whole pixels."""
    default_epochs: int = 10
    notice: str | None = None
    """A message for the user about this data, for example that it replaces the requested data set."""
    test_positions: Labels | None = None
    """(image,): position of each test image in the data set's test split before limits, or in the whole data set if it
    has no test split; None if they are numbered from 0."""
    test_total: int | None = None
    """Number of images in that split or data set; None: the number of test images."""


@dataclass(frozen=True, eq=False)
class Metadata(Mapping[str, np.ndarray]):
    """Columns of a user's table, with one value per test image in the order of the test images.

    >>> metadata = Metadata({"site": np.array(["A", "B"], object)}, rows=2)
    >>> list(metadata), metadata["site"].tolist()
    (['site'], ['A', 'B'])
    """

    columns: Mapping[str, np.ndarray]
    """Numbers, booleans, dates, or objects (text); missing values are NaN, NaT or None."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Columns that cannot be used, with the reason as a part of a sentence."""
    rows: int = 0
    """Number of rows of the table, which may cover more images than the test images."""
    file: str | None = None
    """Name of the file; None for a table in memory."""
    sha256: str | None = None
    """Checksum of the file, or of the columns of a table in memory."""

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column."""
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def record(self) -> dict[str, Any]:
        """Return the entry `metadata` of run.json."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "rows": self.rows,
            "columns": list(self.columns),
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Points for the TensorBoard projector."""

    points: np.ndarray
    """(point, feature) floats."""
    columns: Mapping[str, list[str]]
    """One label per point in each named column."""
    thumbnails: np.ndarray
    """(point, height, width, channel) bytes."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """The output of a hook: a figure, arrays and numbers under one name, or a table of embedded points.

    The store writes the figure to `plots/HOOK/epoch_NNN.png`, the arrays to `.npz` and the numbers to `.json`; with a
    `name`, to `epoch_NNN_NAME`. Hooks never handle files.
    """

    caption: str
    """One-line description, with units and data."""
    name: str = ""
    """Distinguishes several artifacts of one hook: lowercase, no spaces."""
    figure: "Figure | None" = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON values behind the figure, for further computation (NaN is written as null)."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """Values plotted over the epochs in TensorBoard; empty for hooks that run once at the end."""
    embedding: EmbeddingTable | None = None
