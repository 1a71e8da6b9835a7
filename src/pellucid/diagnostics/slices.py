"""Error rates of slices of a test set, such as the images of one site, with simultaneous intervals."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.multiple_tests import holm
from pellucid.core.options import Range, check_argument
from pellucid.core.text import printable
from pellucid.diagnostics._partition import Partition, partition
from pellucid.diagnostics._proportions import clopper_pearson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Sampled", "Slice", "Slices", "find_slices"]

MOST_PAIRS = 200
"""Maximum number of slices by pairs of columns, the largest ones."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A column that is known for some of the images only; its slices are compared with the rest of these images."""

    indices: Sequence[int] | np.ndarray | torch.Tensor
    """Indices of the images with a known value, each at most once."""
    values: Any
    """One value per index."""


@dataclass(frozen=True)
class Slice:
    """Errors among the images with one value of a column; rates are from 0 to 1."""

    column: str
    value: str
    images: int
    errors: int
    error_rate: float
    low: float
    """Lower end of the interval of the error rate."""
    high: float
    difference: float
    """Error rate minus that of the rest of the images; NaN without a rest."""
    p_value: float
    """Two-sided p-value of Fisher's exact test against the rest."""
    adjusted_p: float
    """p-value after Holm's correction for all slices."""
    indices: np.ndarray = field(repr=False, compare=False)
    """Indices of the images, ascending."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but `indices` as JSON values."""
        record = {name: value for name, value in vars(self).items() if name != "indices"}
        return record | {"difference": self.difference if math.isfinite(self.difference) else None}


@dataclass(frozen=True)
class Slices:
    """The slices of a test set: first those with significantly more errors than the rest, then by error rate."""

    slices: tuple[Slice, ...]
    images: int
    """Number of all images."""
    errors: int
    confidence: float
    """Probability that the intervals of all slices together contain the true error rates, at least."""
    least: int
    """Minimum number of images of a slice."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Columns without slices, with the reason as a part of a sentence."""

    @property
    def error_rate(self) -> float:
        """Error rate of all images."""
        return self.errors / self.images

    @property
    def looks(self) -> int:
        """Number of slices for which intervals and p-values are corrected."""
        return len(self.slices)

    @property
    def worse(self) -> tuple[Slice, ...]:
        """Slices with significantly more errors than the rest, after correction."""
        return tuple(one for one in self.slices if self.verdict(one) == "worse")

    def verdict(self, one: Slice) -> str:
        """Return `worse` or `better` for a slice that differs significantly from the rest, otherwise an empty text."""
        return _verdict(one, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values, for `Artifact.numbers`."""
        return {
            "images": self.images,
            "errors": self.errors,
            "error_rate": self.error_rate,
            "confidence": self.confidence,
            "looks": self.looks,
            "least": self.least,
            "slices": [one.to_dict() | {"verdict": self.verdict(one)} for one in self.slices],
            "left_out": dict(self.left_out),
        }

    def figure(self, title: str = "Error rate by slice") -> "Figure":
        """Draw the intervals of the worst 30 slices."""
        from pellucid.plots.slices import slices_figure

        return slices_figure(self.to_dict(), title)


def find_slices(
    is_wrong: torch.Tensor | np.ndarray | Sequence[bool],
    columns: Mapping[str, Any],
    *,
    least: int = 20,
    bins: int = 5,
    confidence: float = 0.95,
    pairs: bool = False,
) -> Slices:
    """Measure the error rate of every slice: the images with one value of a column, or with values in one bin.

    `is_wrong` has one boolean per image; each column has one value per image, or is `Sampled`. Text, booleans
    and numbers with at most `2 * bins` distinct values have a slice per value, and other numbers and dates up to `bins`
    quantile bins. Images without a value are a slice of their own. Values with fewer than `least` images, and all but
    the 50 most frequent ones, form one slice together. With `pairs`, the images with the same values of two
    columns are slices, too; more slices mean wider intervals. Columns without slices, such as ids, are in
    `Slices.left_out`.

    The intervals are those of Clopper and Pearson (1934) at the level $1 - (1 - c) / m$ for $m$ slices (Bonferroni), so
    with probability $c$, the `confidence`, they all contain the true error rates at once, however the slices overlap.
    They stay valid if the images of a slice have different probabilities of an error (Hoeffding, 1956), but not for
    columns made from the errors themselves. Each slice is compared with the rest of the images by Fisher's exact test,
    with Holm's correction (1979).

    Raises `ShapeError` if a column has another number of values, and `ConfigError` for an invalid option.

    >>> site = ["A"] * 60 + ["B"] * 40
    >>> is_wrong = torch.arange(100) >= 80
    >>> result = find_slices(is_wrong, {"site": site, "id": [f"image {index}" for index in range(100)]})
    >>> [(one.value, one.images, one.error_rate, result.verdict(one)) for one in result.slices]
    [('B', 40, 0.5, 'worse'), ('A', 60, 0.0, 'better')]
    >>> result.left_out
    {'id': 'none of its 100 values has 20 images'}
    """
    wrong = _checked_outcomes(is_wrong)
    _check_options(least, bins, confidence)
    groups, left_out = list[_Group](), dict[str, str]()
    partitions: dict[str, Partition] = {}
    _check_columns(columns)
    for name, values in columns.items():
        label = printable(str(name))
        known, own = _known(values, len(wrong), label)
        found = partition(own, bins=bins, least=least)
        if isinstance(found, str):
            left_out[label] = found
            continue
        groups += _groups(label, found, known)
        if len(known) == len(wrong):
            partitions[label] = found
    if pairs:
        groups += _pairs(partitions, least)
    return Slices(_measured(groups, wrong, confidence), len(wrong), int(wrong.sum()), confidence, least, left_out)


@dataclass(frozen=True, eq=False)
class _Group:
    """Images of a slice, within the images of its column."""

    column: str
    value: str
    indices: np.ndarray
    known: np.ndarray
    """Indices of all images of the column."""


def _checked_outcomes(is_wrong: Any) -> np.ndarray:
    if isinstance(is_wrong, torch.Tensor):
        is_wrong = is_wrong.detach().cpu()
        is_wrong = is_wrong.float() if is_wrong.dtype == torch.bfloat16 else is_wrong
    wrong = np.asarray(is_wrong)
    if wrong.ndim != 1 or not len(wrong):
        raise ShapeError(f"is_wrong has shape {wrong.shape}; pass one boolean per image, for at least one image.")
    if wrong.dtype != bool and not np.isin(wrong, (0, 1)).all():
        raise ShapeError("is_wrong has values other than 0 and 1; pass booleans, such as predictions != labels.")
    return wrong.astype(bool)


def _check_options(least: int, bins: int, confidence: float) -> None:
    check_argument("find_slices", "least", least, Annotated[int, Range(1)])
    check_argument("find_slices", "bins", bins, Annotated[int, Range(1)])
    check_argument("find_slices", "confidence", confidence, Annotated[float, Range(0, 1, above=True, below=True)])


def _check_columns(columns: Any) -> None:
    if not isinstance(columns, Mapping):
        raise ShapeError(f"columns is of type {type(columns).__name__}; pass a dict from names to values.")
    labels = Counter(printable(str(name)) for name in columns)
    repeated = [label for label, count in labels.items() if count > 1]
    if repeated:
        raise ConfigError(f"more than one column has the name {repeated[0]!r}; give each column its own name.")


def _known(values: Any, count: int, name: str) -> tuple[np.ndarray, Any]:
    """Return the indices of the images of a column, and its values."""
    if not isinstance(values, Sampled):
        is_single = isinstance(values, str | bytes | Mapping | Set) or getattr(values, "ndim", 1) == 0
        if is_single or not hasattr(values, "__len__"):
            raise ShapeError(f"the column {name!r} is of type {type(values).__name__}; pass one value per image.")
        if len(values) != count:
            raise ShapeError(f"the column {name!r} has {len(values)} values for {count} images; pass one per image.")
        return np.arange(count), values
    given, own = values.indices, values.values
    indices = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
    if indices.ndim != 1 or (len(indices) and indices.dtype.kind not in "iu"):
        raise ShapeError(
            f"the column {name!r} has indices of shape {indices.shape} and dtype {indices.dtype}; pass a list of "
            "integers, such as mask.nonzero()[0] for a mask."
        )
    indices = indices.astype(np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= count or len(np.unique(indices)) < len(indices)):
        raise ShapeError(f"the column {name!r} has indices that repeat or are outside 0 to {count - 1}.")
    if len(own) != len(indices):
        raise ShapeError(f"the column {name!r} has {len(own)} values for {len(indices)} indices; pass one for each.")
    return indices, own


def _groups(column: str, found: Partition, known: np.ndarray) -> list[_Group]:
    return [_Group(column, value, np.sort(known[found.codes == code]), known) for code, value in enumerate(found.names)]


def _pairs(partitions: Mapping[str, Partition], least: int) -> list[_Group]:
    """Return the images with the same values of two columns; only parts of both slices, and the largest ones."""
    made = list[_Group]()
    for (one, first), (other, second) in combinations(partitions.items(), 2):
        known = np.arange(len(first.codes))
        sizes = [np.bincount(part.codes[part.codes >= 0], minlength=len(part.names)) for part in (first, second)]
        both = np.where((first.codes >= 0) & (second.codes >= 0), first.codes * len(second.names) + second.codes, -1)
        for code in np.unique(both[both >= 0]).tolist():
            row, column = divmod(code, len(second.names))
            indices = known[both == code]
            # a pair as large as one of its slices is that slice
            if least <= len(indices) < min(sizes[0][row], sizes[1][column]):
                made.append(_Group(f"{one} × {other}", f"{first.names[row]} × {second.names[column]}", indices, known))
    return sorted(made, key=lambda group: (-len(group.indices), group.column, group.value))[:MOST_PAIRS]


def _measured(groups: Sequence[_Group], wrong: np.ndarray, confidence: float) -> tuple[Slice, ...]:
    """Return the slices of all groups, worst first."""
    if not groups:
        return ()
    images = np.array([len(group.indices) for group in groups])
    errors = np.array([int(wrong[group.indices].sum()) for group in groups])
    totals = np.array([[len(group.known), int(wrong[group.known].sum())] for group in groups])
    level = 1 - (1 - confidence) / len(groups)
    low, high = (end.numpy() for end in clopper_pearson(torch.from_numpy(errors), torch.from_numpy(images), level))
    p = [_fisher(*row) for row in zip(errors.tolist(), images.tolist(), *totals.T.tolist(), strict=True)]
    rest = totals[:, 0] - images
    rest_rate = np.where(rest > 0, (totals[:, 1] - errors) / np.maximum(rest, 1), np.nan)
    made = [
        Slice(
            column=group.column,
            value=group.value,
            images=int(images[row]),
            errors=int(errors[row]),
            error_rate=float(errors[row] / images[row]),
            low=float(low[row]),
            high=float(high[row]),
            difference=float(errors[row] / images[row] - rest_rate[row]),
            p_value=p[row],
            adjusted_p=adjusted,
            indices=group.indices,
        )
        for row, (group, adjusted) in enumerate(zip(groups, holm(p), strict=True))
    ]
    return tuple(sorted(made, key=lambda one: _place(one, confidence)))


def _verdict(one: Slice, confidence: float) -> str:
    if not one.adjusted_p <= 1 - confidence:
        return ""
    return "worse" if one.difference > 0 else "better"


def _place(one: Slice, confidence: float) -> tuple[bool, float, int, str, str]:
    """Return the key by which slices are sorted."""
    return _verdict(one, confidence) != "worse", -one.error_rate, -one.images, one.column, one.value


def _fisher(errors: int, images: int, all_images: int, all_errors: int) -> float:
    """Return the p-value of Fisher's exact test of a slice against the rest; 1 if there is nothing to compare."""
    if images == all_images or all_errors in (0, all_images):
        return 1.0
    # all numbers of errors that a slice of this size can have; SciPy's `fisher_exact` takes 20 times as long
    possible = np.arange(max(0, all_errors - (all_images - images)), min(images, all_errors) + 1)
    log_p = _log_ways(images, possible) + _log_ways(all_images - images, all_errors - possible)
    probability = np.exp(log_p - log_p.max())
    # a tolerance, since equally probable tables differ by rounding
    is_extreme = probability <= probability[errors - possible[0]] * (1 + 1e-7)
    return float(min(1.0, probability[is_extreme].sum() / probability.sum()))


def _log_ways(total: int, chosen: np.ndarray) -> np.ndarray:
    """Return the logarithm of the number of ways to choose, up to a constant that depends on the total."""
    from scipy.special import gammaln

    return np.asarray(-(gammaln(chosen + 1) + gammaln(total - chosen + 1)))
