"""Summaries of maps from one pass over a store: sums by class, residuals by size, and the most extreme images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pellucid.report._tiles import TILE_SIDE, shrunk

__all__ = ["EDGES", "FLOOR", "Extreme", "Extremes", "MeanMaps", "kept_size", "relative_residuals"]

MOST_VALUES = 4_000_000
"""Maximum number of values of all mean maps, which bounds the memory."""
FLOOR = 0.01
"""Promised sums of fewer logits count as this many, because the residual of a logit near zero would look large."""
EDGES = 10.0 ** np.arange(-9, 1.25, 0.25)
"""Edges of the bins of relative residuals: four for each factor of ten. The first and the last bin are open."""
FEW = 6
"""Number of most and of least faithful images."""


def kept_size(height: int, width: int, maps: int) -> tuple[int, int]:
    """Return the size at which so many mean maps are kept, preserving the aspect ratio.

    >>> kept_size(28, 28, 30), kept_size(224, 112, 3000)
    ((28, 28), (52, 26))
    """
    share = min(1.0, TILE_SIDE / max(height, width), (MOST_VALUES / (maps * height * width)) ** 0.5)
    return max(1, round(height * share)), max(1, round(width * share))


def relative_residuals(expected: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Return |residual| / max(|expected|, `FLOOR`).

    >>> relative_residuals(np.array([2.0, 0.0]), np.array([-0.1, 0.001])).tolist()
    [0.05, 0.1]
    """
    return np.asarray(np.abs(residual) / np.maximum(np.abs(expected), FLOOR))


@dataclass(eq=False)
class MeanMaps:
    """Sums of maps and of their absolute values, by class."""

    size: tuple[int, int]
    classes: int
    methods: int
    counts: np.ndarray = field(init=False)
    """(class,) numbers of images."""

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.classes, np.int64)
        self._sums = np.zeros((2, self.classes, self.methods, *self.size))

    def add(self, maps: np.ndarray, groups: np.ndarray) -> None:
        """Add maps (image, method, height, width) of images of the classes `groups`."""
        for group in np.unique(groups).tolist():
            chosen = maps[groups == group]
            self.counts[group] += len(chosen)
            sums = np.stack([chosen.sum(0, dtype=np.float64), np.abs(chosen).sum(0, dtype=np.float64)])
            self._sums[:, group] += shrunk(sums, self.size)

    @property
    def means(self) -> np.ndarray:
        """(2, class, method, height, width) means of the maps and of their absolute values; 0 without images."""
        return self._sums / np.maximum(self.counts, 1)[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Extreme:
    """An image with a small or a large residual."""

    index: int
    key: str
    label: int
    prediction: int
    expected: float
    residual: float
    relative: float
    maps: np.ndarray
    """(method, height, width)"""


@dataclass(eq=False)
class Extremes:
    """The images with the smallest or the largest values so far; of equal ones, the first."""

    sign: int
    """1 for the smallest values, −1 for the largest."""
    images: list[Extreme] = field(default_factory=list)

    def add(self, values: np.ndarray, make: Callable[[int], Extreme]) -> None:
        """Consider images by their values; `make` returns one of them."""
        order = np.argsort(self.sign * values, kind="stable")[:FEW]
        worst = self.sign * self.images[-1].relative if len(self.images) == FEW else np.inf
        candidates = [make(int(number)) for number in order if self.sign * values[number] < worst]
        self.images = _first([*self.images, *candidates], self.sign)


def _first(images: Sequence[Extreme], sign: int) -> list[Extreme]:
    return sorted(images, key=lambda one: (sign * one.relative, one.index))[:FEW]
