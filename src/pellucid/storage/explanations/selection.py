"""Conditions of `select`, and the images of a store that meet them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.storage.explanations.arrays import Rows, StoredArrays

__all__ = ["ClassChoice", "Query", "choose", "class_indices", "method_index"]

ClassChoice = int | str | Sequence[int | str] | None
"""One or several classes, by index or name; None for all."""


@dataclass(frozen=True)
class Query:
    """Conditions of a selection: an image must meet all of them; None sets no condition."""

    label: ClassChoice = None
    prediction: ClassChoice = None
    target: ClassChoice = None
    correct: bool | None = None
    readable: bool | None = True
    residual_above: tuple[str, float] | None = None


def choose(arrays: StoredArrays, rows: Rows, query: Query) -> np.ndarray:
    """Return the rows that meet all conditions, in their order; reads small variables only, shard by shard.

    Raises `UnknownName` and `ConfigError` for conditions that cannot apply to this store.
    """
    wanted = {
        name: class_indices(arrays, name, choice)
        for name in ("label", "prediction", "target")
        if (choice := getattr(query, name)) is not None
    }
    residual = _residual_limit(arrays, query.residual_above)
    if query.correct is not None:
        for name in ("label", "prediction"):
            arrays.header(name)
    chosen = [np.empty(0, np.int64)]
    for _, part in arrays.by_shard(rows):
        keep = np.ones(len(part), bool)
        if query.readable is not None and "error" in arrays:
            keep &= (arrays.read("error", part) == "") == query.readable
        elif query.readable is False:
            keep[:] = False
        for name, classes in wanted.items():
            keep &= np.isin(arrays.read(name, part), classes)
        if query.correct is not None:
            labels, predictions = arrays.read("label", part), arrays.read("prediction", part)
            # without a label, an image is neither correct nor wrong
            keep &= (labels >= 0) & (predictions >= 0) & ((labels == predictions) == query.correct)
        if residual is not None:
            sizes = np.abs(arrays.read("residual", part, residual[0])).reshape(len(part), -1)
            keep &= (sizes > residual[1]).any(1)
        chosen.append(part[keep])
    return np.concatenate(chosen)


def class_indices(arrays: StoredArrays, name: str, choice: int | str | Sequence[int | str]) -> list[int]:
    """Return class indices for names and indices; a name shared by several classes selects all of them.

    Raises `UnknownName` for an unknown class, and `ConfigError` for an index that is out of range.
    """
    arrays.header(name)
    classes = arrays.classes
    listed = [choice] if isinstance(choice, int | str | np.integer) else list(choice)
    found: list[int] = []
    for one in listed:
        if isinstance(one, str):
            if one not in classes:
                raise UnknownName("class", one, classes)
            found += [number for number, known in enumerate(classes) if known == one]
        elif isinstance(one, bool | float) or not 0 <= one < len(classes):
            raise ConfigError(f"{name} is {one!r}; expected a class name, or an index from 0 to {len(classes) - 1}.")
        else:
            found.append(int(one))
    return found


def method_index(arrays: StoredArrays, method: str) -> int:
    """Return the position of a method. Raises `UnknownName` for an unknown one."""
    if method not in arrays.methods:
        raise UnknownName("stored method", method, arrays.methods)
    return arrays.methods.index(method)


def _residual_limit(arrays: StoredArrays, limit: tuple[str, float] | None) -> tuple[int, float] | None:
    if limit is None:
        return None
    if len(limit) != 2:
        raise ConfigError(
            f"residual_above is {limit!r}; expected a pair of method and logits, as ('lrp.epsilon', 0.01)."
        )
    method = method_index(arrays, limit[0])
    arrays.header("residual")
    return method, float(limit[1])
