"""The table of operations: for each function of torch, how it is recorded.

An entry is a handler `(call, *arguments) -> value`: it runs the function and enters a node. One decorator adds one,
under every name that torch has for the function (`torch.relu`, `F.relu`, `Tensor.relu`, and `relu_` in place).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OPERATIONS", "Entry", "Table", "operation"]

Handler = Callable[..., Any]
"""(call, *the function's arguments) to what the model gets."""

_PLACES: tuple[Any, ...] = (torch, Tensor, F, torch._C._nn, torch.special)


@dataclass(frozen=True)
class Entry:
    """How one function is recorded."""

    name: str
    handler: Handler
    function: Callable[..., Any] | None = None
    """What computes the value, where it is not the function itself: its out-of-place form."""
    in_place: bool = False


class Table:
    """Functions and their entries."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}

    def find(self, function: Callable[..., Any]) -> Entry | None:
        """The entry of a function; None where there is none."""
        try:
            return self._entries.get(function)
        except TypeError:  # not hashable
            return None

    def names(self) -> list[str]:
        """The names of all operations, sorted."""
        return sorted({entry.name for entry in self._entries.values()})

    def enter(self, function: Callable[..., Any], entry: Entry) -> None:
        """Add or replace the entry of one function."""
        self._entries[function] = entry

    def enter_name(self, name: str, handler: Handler) -> None:
        """Add an entry for every function that torch knows by `name`, and for their in-place forms."""
        if name.startswith("Tensor.") and name.endswith(".__get__"):
            self.enter(getattr(Tensor, name.split(".")[1]).__get__, Entry(name.split(".")[1], handler))
            return
        for place in _PLACES:
            function = getattr(place, name, None)
            if callable(function):
                self.enter(function, Entry(name, handler))
                self._enter_in_place(place, name, function, handler)

    def _enter_in_place(self, place: Any, name: str, function: Callable[..., Any], handler: Handler) -> None:
        in_place = f"__i{name[2:]}" if name.startswith("__") else f"{name}_"
        changed = getattr(place, in_place, None)
        if callable(changed):
            self.enter(changed, Entry(in_place, handler, function, in_place=True))


OPERATIONS = Table()
"""Every operation that the engine can follow."""


def operation(*functions: str | Callable[..., Any]) -> Callable[[Handler], Handler]:
    """A decorator that enters a handler for functions, given by torch's names or as they are.

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
