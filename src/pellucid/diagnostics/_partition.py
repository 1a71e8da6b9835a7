"""Groups of images by the values of a column: one group per value, or quantile bins of many numbers or dates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from pellucid.core.text import printable

__all__ = ["MISSING", "Partition", "partition"]

MISSING = "(missing)"
"""Name of the group of images without a value."""
EMPTY = "(empty text)"
MOST_VALUES = 50
"""Maximum number of values with separate groups; the rarer ones form one group together."""
EXACT = 17
"""Number of significant digits that tell all floats apart."""
DIGITS = (3, 4, 6, EXACT)
"""Numbers of digits to try, until all names differ."""
LARGEST_WHOLE = 2.0**53
"""Floats below this value hold every whole number."""
NUMBER_KINDS = {"i": np.int64, "u": np.uint64, "f": np.float64}


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of images that do not overlap."""

    names: tuple[str, ...]
    codes: np.ndarray
    """(image,): the group of each image as an index of `names`; -1 for images in groups that are too small."""


def partition(values: Any, *, bins: int, least: int) -> Partition | str:
    """Return the groups of at least `least` images by their values; a sentence part with the reason if there are none.

    `values` is an array, tensor or list with one value per image. Text, booleans, and numbers with at most
    `2 * bins` distinct values have one group per value. Other numbers and dates have up to `bins` quantile bins, which
    never separate equal values. None, NaN and NaT are missing values. Values with fewer images form a group together.

    >>> partition(["a", "b", "a", None, "b"], bins=5, least=2).names
    ('a', 'b')
    >>> partition(np.arange(40), bins=2, least=10).names
    ('0 … 19', '20 … 39')
    """
    column = _typed(values)
    if isinstance(column, str):
        return column
    is_missing = _is_missing(column)
    present = column[~is_missing]
    if not len(present):
        return "it has no values"
    distinct, inverse = np.unique(present, return_inverse=True)
    if len(distinct) == 1 and not is_missing.any():
        return "all its values are equal"
    is_continuous = column.dtype.kind in "iufM" and len(distinct) > 2 * bins
    counts = np.bincount(inverse.reshape(-1))
    groups = _binned(distinct, counts, bins, least) if is_continuous else _valued(distinct, counts, least)
    if isinstance(groups, str):
        return groups
    names, of_value = groups
    codes = np.full(len(column), -1, np.int64)
    codes[~is_missing] = of_value[inverse.reshape(-1)]
    if is_missing.any():
        codes[is_missing] = len(names)
        names = [*names, MISSING]
    return _large_enough(names, codes, least)


def _large_enough(names: Sequence[str], codes: np.ndarray, least: int) -> Partition | str:
    """Drop groups with fewer than `least` images."""
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    is_kept = sizes >= least
    if not is_kept.any():
        return f"none of its groups has {least} images"
    numbers = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
    kept = [name for name, keep in zip(names, is_kept, strict=True) if keep]
    return Partition(_distinct(kept), np.where(codes >= 0, numbers[codes], -1))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Number equal names, such as that of missing values and the same text as a value.

    >>> _distinct(["a", "(missing)", "(missing)"])
    ('a', '(missing)', '(missing) #2')
    """
    made: dict[str, None] = {}  # in order
    for name in names:
        own, number = name, 1
        while own in made:
            number += 1
            own = f"{name} #{number}"
        made[own] = None
    return tuple(made)


def _valued(distinct: np.ndarray, counts: np.ndarray, least: int) -> tuple[list[str], np.ndarray] | str:
    """Return one group per value, most frequent values first in case of too many, and the group of each value."""
    # a stable order, so that ties are broken by the value
    frequent = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    own = np.sort(frequent[counts[frequent] >= least])
    if not len(own):
        return f"none of its {len(distinct):,} values has {least} images"
    names = next(
        names for digits in DIGITS if len(set(names := _named(distinct[own], digits))) == len(own) or digits == EXACT
    )
    rare = len(distinct) - len(own)
    of_value = np.full(len(distinct), len(own), np.int64)
    of_value[own] = np.arange(len(own))
    return [*names, *([f"(other: {rare:,} {'value' if rare == 1 else 'values'})"] if rare else [])], of_value


def _binned(distinct: np.ndarray, counts: np.ndarray, bins: int, least: int) -> tuple[list[str], np.ndarray]:
    """Return quantile bins of sorted values, each named by its smallest and largest value, and the bin of each."""
    reached = np.cumsum(counts)
    bins = max(1, min(bins, int(reached[-1]) // least))
    # the value at which each quantile is reached closes its bin
    closing = np.unique(np.searchsorted(reached, np.arange(1, bins + 1) * reached[-1] / bins))
    of_value = np.searchsorted(closing, np.arange(len(distinct)))
    opening = np.r_[0, closing[:-1] + 1]
    names: list[str] = []
    for digits in DIGITS:
        ends = zip(_named(distinct[opening], digits), _named(distinct[closing], digits), strict=True)
        names = [first if first == last else f"{first} … {last}" for first, last in ends]
        if len(set(names)) == len(names):
            break
    return names, of_value


def _named(values: np.ndarray, digits: int) -> list[str]:
    """Return a text for each value; `digits` is the number of significant digits of fractions."""
    if values.dtype.kind == "M":
        is_day = bool((values == values.astype("datetime64[D]")).all())
        return [str(value.astype(f"datetime64[{'D' if is_day else 's'}]")).replace("T", " ") for value in values]
    if values.dtype.kind == "b":
        return [_named_truth(value) for value in values.tolist()]
    if values.dtype.kind in "iu":
        return [str(value) for value in values.tolist()]
    if values.dtype.kind == "f":
        if (np.abs(values) < LARGEST_WHOLE).all() and (values == np.round(values)).all():
            return [f"{value:.0f}" for value in values.tolist()]
        return [_short(value, digits) for value in values.tolist()]
    return [printable(value) or EMPTY for value in values.tolist()]


def _short(value: float, digits: int) -> str:
    """Return a number with some significant digits, without an exponent if it is of a usual size.

    >>> _short(12345.6, 3), _short(-0.12345, 3), _short(1e-9, 3)
    ('12300', '-0.123', '1e-09')
    """
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return format(value, f".{digits}g")
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def _named_truth(value: Any) -> str:
    return "true" if value else "false"


def _is_missing(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "O":
        return np.array([value is None for value in column.tolist()], bool)
    if column.dtype.kind == "f":
        return np.isnan(column)
    return np.isnat(column) if column.dtype.kind == "M" else np.zeros(len(column), bool)


def _typed(values: Any) -> np.ndarray | str:
    """Return values as an array of numbers, booleans, dates or texts (objects); the reason if that is impossible.

    Missing values are None among texts and booleans, NaN among numbers and NaT among dates.
    """
    if isinstance(values, np.ma.MaskedArray):
        values = values.tolist()  # None where it is masked
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float() if values.dtype == torch.bfloat16 else values.detach().cpu()
    column = values if isinstance(values, np.ndarray) else None
    if column is None and hasattr(values, "__array__"):
        column = np.asarray(values)
    if column is not None and column.ndim != 1:
        return f"its values have the shape {column.shape[1:]}"
    if column is not None and column.dtype.kind in NUMBER_KINDS:
        return column.astype(NUMBER_KINDS[column.dtype.kind])
    if column is not None and column.dtype.kind == "M":
        moments = column.astype("datetime64[us]")
        # beyond 292,000 years, the conversion overflows to another year
        is_same = (moments.astype("datetime64[Y]") == column.astype("datetime64[Y]")) | np.isnat(column)
        return moments if is_same.all() else "its dates are beyond those that can be counted in microseconds"
    if column is not None and column.dtype.kind == "b":
        return column
    if column is not None and column.dtype.kind == "U":
        return column.astype(object)
    if column is not None and column.dtype.kind == "m":
        return "its values are durations; convert them to numbers"
    # what NumPy holds in other kinds, such as text, is converted one by one
    return _from_objects(list(values) if column is None else column.tolist())


def _from_objects(values: Iterable[Any]) -> np.ndarray | str:
    plain = [None if _is_null(value) else value for value in values]
    kinds = {_kind(value) for value in plain if value is not None}
    if len(kinds) > 1:
        return f"its values are of several types ({', '.join(sorted(kinds))})"
    kind = kinds.pop() if kinds else "text"
    if kind == "number" and None not in plain and all(_is_long(value) for value in plain):
        return np.array(plain, np.int64)
    if kind == "number":
        if any(_is_rounded(value) for value in plain):
            return "its whole numbers are too large to tell them apart; convert them to text"
        return np.array([np.nan if value is None else _float(value) for value in plain], np.float64)
    if kind == "date":
        return np.array([np.datetime64("NaT") if value is None else _utc(value) for value in plain], "datetime64[us]")
    if kind in ("text", "boolean"):
        column = np.empty(len(plain), object)
        column[:] = plain if kind == "text" else [None if each is None else _named_truth(each) for each in plain]
        return column
    return f"its values are of type {kind}, which cannot be grouped"


def _is_null(value: Any) -> bool:
    """Return True for None, NaN and the missing values of other libraries."""
    # a signaling NaN cannot be compared
    is_nan = value.is_nan() if isinstance(value, Decimal) else isinstance(value, Real) and bool(value != value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Integral | Real | Decimal):
        return "number"
    return "date" if isinstance(value, date | np.datetime64) else type(value).__name__


def _is_long(value: Any) -> bool:
    return isinstance(value, Integral) and -(2**63) <= int(value) < 2**63


def _is_rounded(value: Any) -> bool:
    """Return True for a whole number of up to 300 digits that no float equals."""
    return isinstance(value, Integral) and math.isfinite(number := _float(value)) and int(number) != int(value)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 300 digits
        return np.inf if value > 0 else -np.inf


def _utc(value: date | np.datetime64) -> Any:
    """Return a moment in UTC; one without a time zone is taken as it is."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            value = value.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:  # within a day of the years 1 or 9999
            value = value.replace(tzinfo=None)
    return np.array(value, "datetime64[us]")[()]
