"""The table of operations, which maps each torch function to the handler that records it and to its traits.

A handler `(call, *arguments) -> value` runs the function and records a node. The decorator `operation` registers it
under every name that torch has for the function (`torch.relu`, `F.relu`, `Tensor.relu`, and the in-place `relu_`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

__all__ = ["OPERATIONS", "Entry", "Table", "name_of", "operation", "storage_key", "substitute", "tensors_in"]


Handler = Callable[..., Any]
"""Maps (call, *arguments of the function) to the value that the model receives."""

_PLACES: tuple[Any, ...] = (torch, Tensor, F, torch._C._nn, torch.special)


@dataclass(frozen=True)
class Entry:
    """The handler of one function."""

    name: str
    handler: Handler
    function: Callable[..., Any] | None = None
    """The out-of-place form that computes the value of an in-place function; None to call the function itself."""
    in_place: bool = False


class Table:
    """Registry of functions and their entries."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}

    def find(self, function: Callable[..., Any]) -> Entry | None:
        """Return the entry of a function, or None."""
        try:
            return self._entries.get(function)
        except TypeError:  # not hashable
            return None

    def names(self) -> list[str]:
        """Return the names of all operations, sorted."""
        return sorted({entry.name for entry in self._entries.values()})

    def enter(self, function: Callable[..., Any], entry: Entry) -> None:
        """Add or replace the entry of a function."""
        self._entries[function] = entry

    def enter_name(self, name: str, handler: Handler) -> None:
        """Add an entry for every torch function called `name`, and for its in-place form."""
        if name.startswith("Tensor.") and name.endswith(".__get__"):
            self.enter(getattr(Tensor, name.split(".")[1]).__get__, Entry(name.split(".")[1], handler))
            return
        for place in _PLACES:
            function = getattr(place, name, None)
            if callable(function):
                self.enter(function, Entry(name, handler))
                self._enter_in_place(place, name, function, handler)

    def _enter_in_place(self, place: Any, name: str, function: Callable[..., Any], handler: Handler) -> None:
        in_place = f"__i{name[2:]}" if name.startswith("__") else f"{name}_"  # __add__ → __iadd__, relu → relu_
        changed = getattr(place, in_place, None)
        if callable(changed):
            self.enter(changed, Entry(in_place, handler, function, in_place=True))


OPERATIONS = Table()
"""All operations that the engine can record."""


def operation(*functions: str | Callable[..., Any]) -> Callable[[Handler], Handler]:
    """Decorator that registers a handler for functions, given as torch names or as objects.

    >>> @operation(torch.sinc)
    ... def sinc(call, input):
    ...     call.refuse("has no rule yet")
    >>> OPERATIONS.find(torch.sinc).name
    'sinc'
    """

    def enter(handler: Handler) -> Handler:
        for function in functions:
            if isinstance(function, str):
                OPERATIONS.enter_name(function, handler)
            else:
                OPERATIONS.enter(function, Entry(function.__name__, handler))
        return handler

    return enter


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, dicts and slices."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))


def substitute(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """Replace each tensor in the nested tuples, lists and dicts of `value`."""
    if isinstance(value, Tensor):
        return replace(value)
    if type(value) in (tuple, list):
        return type(value)(substitute(item, replace) for item in value)
    if isinstance(value, dict):
        return {key: substitute(item, replace) for key, item in value.items()}
    return value


def storage_key(tensor: Tensor) -> int:
    """Return the address of a tensor's storage; 0 for tensors without storage."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def name_of(func: Callable[..., Any]) -> str:
    """Return a function's name as users would write it."""
    return str(resolve_name(func) or getattr(func, "__qualname__", None) or getattr(func, "__name__", repr(func)))
