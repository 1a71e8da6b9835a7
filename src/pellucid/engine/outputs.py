"""Selection of one tensor among the outputs of a model: the grammar of `output=` and `outputs=`.

A selector is

- None: the only tensor that the model returns;
- an index, or a key or field: an entry of a tuple, list, dict, dataclass, named tuple or `ModelOutput`;
- a path into nested outputs: `"aux.scores"`, `"0.scores"`, or a tuple of names and indices, `("aux", 1)`;
- a function of the outputs that returns a tensor.

Detectors return a list with one dict per image. A name that all of these dicts contain selects that entry of every
image, stacked along the batch axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError, UnknownName

__all__ = ["Chooser", "OutputError", "check_chooser", "choose_output"]

Chooser = int | str | tuple[int | str, ...] | Callable[[Any], Tensor] | None
"""Selects one tensor among the outputs of a model; None for a model with a single one."""
Entries = dict[int | str, Any]

MOST_NAMED = 40
"""Maximum number of outputs that an error message lists."""


class OutputError(ConfigError, ShapeError):
    """A selection of outputs that does not fit what the model returns."""


def check_chooser(chooser: Any, option: str = "output") -> Chooser:
    """Return a selector, with NumPy integers as ints; raises `OutputError` for any other kind of value.

    >>> check_chooser(("aux", 1))
    ('aux', 1)
    """
    is_function = callable(chooser) and not isinstance(chooser, type)
    if chooser is None or is_function or (isinstance(chooser, str) and chooser):
        return chooser
    if _is_step(chooser):
        return int(chooser)
    if isinstance(chooser, tuple) and chooser and all(map(_is_step, chooser)):
        return tuple(step if isinstance(step, str) else int(step) for step in chooser)
    raise OutputError(
        f"{option} is {chooser!r}; expected an index, a key or field, a path into nested outputs ('aux.scores' or "
        "('aux', 1)), or a function of the outputs."
    )


def _is_step(step: Any) -> bool:
    if isinstance(step, str):
        return bool(step)
    return isinstance(step, Integral) and not isinstance(step, bool)


def choose_output(outputs: Any, chooser: Chooser, option: str = "output") -> Tensor:
    """Return the selected tensor; `option` is the name of the argument, for messages.

    Raises `UnknownName`, listing the names that exist, for a missing entry, and `OutputError` for a selection that is
    not one tensor.

    >>> outputs = {"scores": torch.ones(2, 3), "aux": (torch.zeros(2), torch.ones(2))}
    >>> choose_output(outputs, "aux.1"), choose_output(outputs, ("aux", 0))
    (tensor([1., 1.]), tensor([0., 0.]))
    """
    if isinstance(outputs, Tensor) and chooser is None:
        return outputs
    if callable(chooser):
        return _computed(outputs, chooser, option)
    if isinstance(outputs, Tensor):
        # `jacobian` also takes indices into the flattened outputs
        hint = f" To select values of it, pass a list: outputs=[{chooser}]." if option == "outputs" else ""
        raise OutputError(
            f"{option} is {chooser!r}, but the model returns a single tensor, {tuple(outputs.shape)}. Omit the name."
            f"{hint if isinstance(chooser, int) else ''}"
        )
    chosen = outputs if chooser is None else _descend(outputs, _steps(chooser), _Search(outputs, chooser, option))
    if isinstance(chosen, Tensor):
        return chosen
    names = _names(chosen)
    if len(names) == 1 and not _is_per_image(chosen):
        return choose_output(chosen, next(iter(names)), option)
    raise OutputError(_ambiguous(chosen, names, chooser, option))


def _computed(outputs: Any, function: Callable[[Any], Any], option: str) -> Tensor:
    try:
        chosen = function(outputs)
    except (LookupError, TypeError, AttributeError) as error:
        raise OutputError(
            f"the function passed as {option} raised {type(error).__name__}: {error}; the model returns "
            f"{_described(outputs)}."
        ) from error
    if not isinstance(chosen, Tensor):
        raise OutputError(
            f"the function passed as {option} returned a {type(chosen).__name__}; it must return a tensor with one row "
            "per image."
        )
    return chosen


def _ambiguous(chosen: Any, names: Sequence[str], chooser: Chooser, option: str) -> str:
    what = "the model returned" if chooser is None else f"{option}={chooser!r} selects"
    kind = type(chosen).__name__
    if not names:
        return f"{what} {kind}; expected a tensor with one row per image."
    example = names[0] if chooser is None else f"{_written(chooser)}.{names[0]}"
    return (
        f"{what} {_article(kind)} with {_listed(names)}; name one of them, such as {option}={example!r}, or pass a "
        "function of the outputs."
    )


class _Search:
    """The whole selection, for messages of a failed step."""

    def __init__(self, outputs: Any, chooser: Chooser, option: str) -> None:
        self.outputs, self.chooser, self.option = outputs, chooser, option

    def missing(self) -> UnknownName:
        """Return the error for a selection that is not there."""
        return UnknownName("output", _written(self.chooser), _names(self.outputs))


def _written(chooser: Chooser) -> str:
    return ".".join(map(str, chooser)) if isinstance(chooser, tuple) else str(chooser)


def _steps(chooser: Any) -> tuple[int | str, ...]:
    return chooser if isinstance(chooser, tuple) else (chooser,)


def _descend(value: Any, steps: tuple[int | str, ...], search: _Search) -> Any:
    """Follow a path into nested outputs."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    entries = _entries(value)
    if _is_per_image(value) and isinstance(step, str) and not step.split(".")[0].lstrip("-").isdigit():
        return _stacked([_descend(entry, steps, search) for entry in value], search)
    for key, remaining in _splits(step):
        place = _place(key, entries, value)
        if place is not None:
            return _descend(entries[place], (*([remaining] if remaining else []), *rest), search)
    raise search.missing()


def _splits(step: int | str) -> list[tuple[int | str, str]]:
    """Return the ways to read a name as a key and a remaining path; the longest key first, as keys may hold dots."""
    if isinstance(step, int):
        return [(step, "")]
    parts = step.split(".")
    return [(".".join(parts[:count]), ".".join(parts[count:])) for count in range(len(parts), 0, -1)]


def _place(key: int | str, entries: Entries, value: Any) -> int | str | None:
    """Return the name of the entry that a key or an index selects; None if it selects nothing."""
    if key in entries:
        return key
    if isinstance(key, str):  # the keys of a dict may be integers
        return next((own for own in entries if str(own) == key), None)
    names = _positions(value, entries)
    place = names[key] if -len(names) <= key < len(names) else None
    return place if place in entries else None


def _positions(value: Any, entries: Entries) -> Sequence[Any]:
    """Return the name at each position of a value that can be indexed."""
    if hasattr(value, "to_tuple"):  # a `ModelOutput` counts only the entries that are set
        return list(entries)
    if isinstance(value, tuple | list):
        return getattr(value, "_fields", None) or range(len(value))
    return ()


def _entries(value: Any) -> Entries:
    """Return the entries of a mapping, tuple, list or dataclass by name or index, without those that are None."""
    if isinstance(value, Mapping):
        pairs: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, tuple | list):
        pairs = list(zip(getattr(value, "_fields", None) or range(len(value)), value, strict=True))
    elif is_dataclass(value) and not isinstance(value, type):
        pairs = [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    elif isinstance(value, Tensor) or not hasattr(value, "__dict__"):
        pairs = []
    else:  # any other object: its plain attributes
        pairs = [(name, entry) for name, entry in vars(value).items() if not name.startswith("_")]
    return {name: entry for name, entry in pairs if entry is not None}


def _is_per_image(value: Any) -> bool:
    """True for a list with one group of named outputs per image, as detectors return."""
    return (
        isinstance(value, tuple | list)
        and not hasattr(value, "_fields")
        and bool(value)
        and all(not isinstance(entry, Tensor | tuple | list) and _entries(entry) for entry in value)
    )


def _stacked(values: Sequence[Any], search: _Search) -> Tensor:
    """Stack one tensor per image along a new batch axis."""
    name = _written(search.chooser)
    if not all(isinstance(value, Tensor) for value in values):
        raise OutputError(
            f"{search.option}={name!r} is not a tensor for every image; the model returns {_described(search.outputs)}."
        )
    shapes = [tuple(value.shape) for value in values]
    if len(set(shapes)) > 1:
        other = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
        raise OutputError(
            f"{search.option}={name!r} has shape {shapes[0]} for image 0 and {shapes[other]} for image {other}, so the "
            "images cannot be stacked; pass a function that returns the same number of values for every image, or one "
            "image at a time."
        )
    return torch.stack(list(values))


def _names(value: Any, prefix: str = "", depth: int = 0) -> list[str]:
    """List the paths of all tensors in nested outputs; those of one image, for outputs per image."""
    if isinstance(value, Tensor):
        return [prefix]
    if depth > 8:  # objects may refer to one another
        return []
    if _is_per_image(value):
        return _names(value[0], prefix, depth + 1)
    joint = f"{prefix}." if prefix else ""
    return [
        name for key, entry in _entries(value).items() for name in _names(entry, f"{joint}{key}", depth + 1) if name
    ]


def _described(outputs: Any) -> str:
    names = _names(outputs)
    return f"{_article(type(outputs).__name__)}{f' with {_listed(names)}' if names else ''}"


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'AEIOUaeiou' else 'a'} {kind}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:MOST_NAMED])) + ", …" * (len(names) > MOST_NAMED)
