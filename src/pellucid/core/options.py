"""Validation of options against their type annotations: type, range and finiteness.

The annotation of a dataclass field states which values it accepts, and `check_options` enforces it:

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Blur(Options):
...     samples: Count = 8
...     radius: NotNegative = 0.5
>>> Blur(samples=0)
Traceback (most recent call last):
    ...
pellucid.core.errors.ConfigError: the option samples of Blur is 0; expected a whole number (at least 1).
"""

import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.finite import bad_value, first_bad_row
from pellucid.core.ranges import Range

__all__ = [
    "Count",
    "NotNegative",
    "Number",
    "Options",
    "Range",
    "Share",
    "check_argument",
    "check_options",
    "check_values",
]


LARGEST_SEED, LARGEST_COUNT = 2**128, 10**9
"""Largest integer options without and with a range; larger counts would run for years, or overflow."""
LARGEST_NUMBER = 1e18
"""Largest other number; larger ones overflow as integers or in float32."""
LONGEST = 200
"""Maximum number of characters of a value in a message."""

Number = float | int
"""A finite number."""
NotNegative = Annotated[float | int, Range(0)]
"""A finite, non-negative number."""
Share = Annotated[float | int, Range(0, 1, above=True, below=True)]
"""A number strictly between 0 and 1."""
Count = Annotated[int, Range(1)]
"""A positive integer."""


class Options:
    """Base class of dataclasses that validate their fields on creation.

    A subclass that defines `__post_init__` must call this one first.
    """

    def __post_init__(self) -> None:
        """Raise `ConfigError` if a field does not match its annotation."""
        check_options(self)


def check_options(options: Any) -> None:
    """Raise `ConfigError` for the first field of a dataclass that does not match its annotation.

    Numbers and tensors must be finite. Fields whose annotations are not supported accept any value.
    """
    check_values(type(options), vars(options))


def check_values(kind: type, values: Mapping[str, Any]) -> None:
    """Validate prospective field `values` of the dataclass `kind`, like `check_options`."""
    for name, expected, is_accepted in _checks(kind):
        if name in values and not is_accepted(values[name]):
            raise ConfigError(
                f"the option {name} of {kind.__name__} is {_received(values[name])}; expected {expected}."
            )


def check_argument(function: str, name: str, value: Any, hint: Any) -> None:
    """Raise `ConfigError` if the argument `name` of a function does not match the annotation `hint`.

    >>> check_argument("evaluate", "seed", 3, int)
    """
    kinds = _kinds(hint)
    if not _any_of(kinds)(value):
        raise ConfigError(f"the argument {name} of {function} is {_received(value)}; expected {_alternatives(kinds)}.")


Check = Callable[[Any], bool]


@cache
def _checks(kind: Any) -> tuple[tuple[str, str, Check], ...]:
    """Return the name, expected value and predicate of each field that can be validated."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # a third-party class with annotations that only a type checker can resolve
        return ()
    checks = []
    for entry in fields(kind):
        kinds = _kinds(hints[entry.name]) if entry.init else [_ANYTHING]
        if _ANYTHING not in kinds:
            checks.append((entry.name, _alternatives(kinds), _any_of(kinds)))
    return tuple(checks)


@dataclass(frozen=True)
class _Kind:
    """One alternative of an annotation."""

    expected: str
    accepts: Check


_ANYTHING = _Kind("anything", lambda _: True)


def _any_of(kinds: Sequence[_Kind]) -> Check:
    return kinds[0].accepts if len(kinds) == 1 else lambda value: any(kind.accepts(value) for kind in kinds)


def _alternatives(kinds: Sequence[_Kind]) -> str:
    # tuples of two lengths may have the same description
    return _join(list(dict.fromkeys(kind.expected for kind in kinds)))


def _kinds(hint: Any, allowed: Range | None = None) -> list[_Kind]:
    """Return the alternatives of an annotation; its numbers must lie in `allowed`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [entry for entry in hint.__metadata__ if isinstance(entry, Range)]
        return _kinds(arguments[0], ranges[0] if ranges else allowed)
    if origin in (Union, types.UnionType):
        # float already accepts integers, so `float | int` is described once
        parts = [part for part in arguments if not (part is int and float in arguments)]
        return [kind for part in parts for kind in _kinds(part, allowed)]
    if origin is Literal:
        return [_Kind(f"one of {_join(list(map(repr, arguments)))}", lambda value: _is_among(value, arguments))]
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return [_entries(arguments)]
    return [_plain(hint if origin is None else origin, allowed)]


def _entries(arguments: Sequence[Any]) -> _Kind:
    """Describe a tuple or list. Its length is fixed if there are several `arguments` and none of them is `...`."""
    each = [_kinds(argument) for argument in arguments if argument is not ...]
    if [_ANYTHING] in each and ... in arguments:
        return _Kind("a tuple", lambda value: isinstance(value, tuple | list))
    expected = _join(list(dict.fromkeys(kind.expected for kinds in each for kind in kinds)))
    is_fixed = ... not in arguments and len(arguments) > 1

    def accepts(value: Any) -> bool:
        if not isinstance(value, tuple | list) or (is_fixed and len(value) != len(each)):
            return False
        tests = [_any_of(kinds) for kinds in each] if is_fixed else [_any_of(each[0])] * len(value)
        return all(test(entry) for test, entry in zip(tests, value, strict=True))

    return _Kind(f"a tuple whose entries are each {expected}", accepts)


def _plain(hint: Any, allowed: Range | None) -> _Kind:
    """Describe a type that is neither a union nor a container."""
    within = "" if allowed is None else f" ({allowed})"
    if hint is bool:
        return _Kind("True or False", lambda value: isinstance(value, bool | np.bool_))
    if hint is int:
        return _Kind(f"a whole number{within}", lambda value: _is_number(value, Integral, allowed))
    if hint is float:
        return _Kind(f"a finite number{within}", lambda value: _is_number(value, Real, allowed))
    if hint in (None, types.NoneType):
        return _Kind("None", lambda value: value is None)
    if isinstance(hint, type) and issubclass(hint, Tensor):
        return _Kind("a tensor of finite numbers", lambda value: isinstance(value, hint) and _is_finite(value))
    if hint is Callable:
        return _Kind("a function", lambda value: callable(value) and not isinstance(value, type))
    if isinstance(hint, type) and hint not in (object, Any):
        names: dict[type, str] = {str: "a string", Mapping: "a mapping", np.ndarray: "an array"}
        noun = names.get(hint, f"a {hint.__name__}")
        return _Kind(noun, lambda value: isinstance(value, hint))
    return _ANYTHING


def _is_number(value: Any, kind: type, allowed: Range | None) -> bool:
    # bool is a subclass of int, but samples=True is a mistake
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    number: Any = value
    if kind is Integral and abs(number) > (LARGEST_SEED if allowed is None else LARGEST_COUNT):
        return False
    if kind is Real and abs(number) > LARGEST_NUMBER:
        return False
    return math.isfinite(number) and (allowed is None or number in allowed)


def _is_finite(value: Tensor) -> bool:
    """True for a dense tensor of finite real numbers."""
    if not _is_dense(value):
        return False
    return value.numel() == 0 or first_bad_row(value.reshape(1, -1)) is None


def _is_dense(value: Tensor) -> bool:
    is_special = value.is_nested or value.is_meta or value.is_quantized or value.is_complex()
    return not is_special and value.layout is torch.strided


def _is_among(value: Any, choices: Iterable[Any]) -> bool:
    # True equals 1, but is not a valid choice for Literal[1]
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _join(parts: list[str]) -> str:
    """Join alternatives for a message: a, b, or c."""
    if len(parts) < 3:
        return " or ".join(parts)
    return f"{', '.join(parts[:-1])}, or {parts[-1]}"


def _received(value: Any) -> str:
    if not isinstance(value, Tensor):
        if isinstance(value, np.ndarray):
            return f"an array of shape {value.shape} and dtype {value.dtype}"
        text = " ".join(repr(value).split())  # one line, also for lists of tensors
        is_huge = isinstance(value, Integral) and abs(int(value)) > LARGEST_COUNT
        number: Any = value  # compared as it is: a huge integer cannot be converted to float
        is_huge |= isinstance(value, Real) and LARGEST_NUMBER < abs(number) < math.inf
        return (text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…") + ", which is too large" * bool(is_huge)
    if not _is_dense(value):
        return f"a {type(value).__name__} of layout {value.layout} and dtype {value.dtype} on {value.device}"
    description = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    return description if _is_finite(value) else f"{description} with {bad_value(value)}"
