"""The contract of a data set: a function from a request to its raw images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pellucid.core.contracts import ImageSet

__all__ = ["RawData", "Request", "Source"]


@dataclass(frozen=True)
class Request:
    """What a data set is asked for."""

    folder: Path
    """Where downloads are kept."""
    argument: str = ""
    """What stood behind the colon, such as the path of `folder:PATH`."""
    mirrors: tuple[str, ...] = ()
    """Tried before the public ones."""
    image_size: int | None = None
    """Height and width in pixels; None: the data set's own."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RawData:
    """What a data set delivers: all its images, before limits and before validation images are set apart."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    title: str
    shift_share: float = 0.0
    """Training images may be shifted at random by up to this share of their size."""
    default_epochs: int = 10


Source: TypeAlias = Callable[[Request], RawData]
"""What `DATASETS` registers: from what is asked for to the raw images."""
