"""The data set contract: a function from a request to raw images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pellucid.core.contracts import ImageSet
from pellucid.core.types import Labels

__all__ = ["RawData", "Request", "Source"]


@dataclass(frozen=True)
class Request:
    """The parameters of loading a data set."""

    folder: Path
    """Download folder."""
    argument: str = ""
    """The text after the colon, such as the path of `folder:PATH`."""
    mirrors: tuple[str, ...] = ()
    """Tried before the public mirrors."""
    image_size: int | None = None
    """Height and width in pixels; None: the data set's own size."""
    crop: int | None = None
    """Height and width of a center crop; `image_size` is then the length of the shorter side before it."""
    seed: int = 0
    max_megapixels: int = 50
    """Largest image to read, in millions of pixels; a small file can claim billions of pixels."""


@dataclass(frozen=True, eq=False)
class RawData:
    """All images of a data set, before limits and before the validation split.

    >>> import torch
    >>> def noise(request: Request) -> RawData:
    ...     draw = torch.Generator().manual_seed(request.seed)
    ...     pixels = torch.randint(256, (60, 1, 8, 8), generator=draw).byte()
    ...     images = ImageSet(pixels, torch.arange(60) % 2)
    ...     return RawData(images[:50], images[50:], classes=("even", "odd"), title="Noise")
    >>> noise(Request(Path("unused"))).test.image_shape
    (1, 8, 8)
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    title: str
    shift_share: float = 0.0
    """Random shift augmentation: the largest shift, as a share of the image size, rounded to whole pixels."""
    default_epochs: int = 10
    test_positions: Labels | None = None
    """(image,): position of each test image in the data set; None if `test` is a split of its own, in its order."""
    test_total: int | None = None
    """Number of images of the data set, if there are positions."""


Source: TypeAlias = Callable[[Request], RawData]
"""The function type that `DATASETS` registers."""
