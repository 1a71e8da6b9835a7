"""The table of operations: for each torch function, the handler that records it and traits for other modules.

A handler `(call, *arguments) -> value` runs the function and records a node. The decorator `operation` registers it
under every name that torch has for the function (`torch.relu`, `F.relu`, `Tensor.relu`, and the in-place `relu_`).
All code that must know something about a torch function asks this table for its traits instead of keeping a list of
names, so one entry describes a new operation. `pellucid.engine.operations` fills the table and exports it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import resolve_name

__all__ = [
    "NO_TRAITS",
    "OPERATIONS",
    "Entry",
    "Table",
    "Traits",
    "modified",
    "name_of",
    "operation",
    "storage_key",
    "substitute",
    "tensors_in",
]

Handler = Callable[..., Any]
"""Maps (call, *arguments of the function) to the value that the model receives."""

Family = Literal[
    "", "activation", "arithmetic", "dropout", "kernel", "move", "norm", "pool", "query", "reduction", "softmax"
]
"""Kind of operation. A move only moves, copies or drops values; a query carries no derivative."""

_PLACES: tuple[Any, ...] = (torch, Tensor, F, torch._C._nn, torch.special)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of an operation, declared where its handler is registered."""

    family: Family = ""
    is_elementwise: bool = False
    """Each element of the result depends only on the same element of the inputs."""
    is_smooth: bool = False
    """Its only kinks are at sign changes and at ties of a max-pool, so rounding elsewhere changes no derivative."""
    is_gate: bool = False
    """In a product, its result only scales the other factor, as that of a sigmoid does."""
    is_constant: bool = False
    """The result depends on no value of its inputs (`zeros_like`), or is piecewise constant (`sign`)."""
    keeps_image: bool = False
    """Applied to the image, its result still counts as the image: a move or a normalization by constants."""
    keeps_softmax: bool = False
    """Applied to probabilities, it only changes their shape, dtype or range."""
    inserts_constants: bool = False
    """Some elements of the result may come from no input, as in padding."""
    takes_template: bool = False
    """A second tensor only gives a shape or dtype, as in `expand_as`."""
    reads_metadata: bool = False
    """A query of shape, dtype or device, which depends on no values."""
    takes_complex: bool = False
    """Applies to complex numbers too; for a few others, the entry `complex::NAME` does."""
    returns_numbers: bool = False
    """Converts a tensor to Python or NumPy numbers, which have no derivative."""
    leaves_graph: bool = False
    """Later computations with the result are invisible to the recorder."""
    channels: Literal["", "first", "last", "kept", "permuted"] = ""
    """Channel axis of the result: axis 1, the last axis, or that of the input, at its place or permuted."""
    operand: int | None = None
    """Position, among the tensor arguments, of a value multiplied by the matrix that follows it."""
    operators: tuple[str, ...] = ()
    """Operators of `torch.ops.aten` that run the operation, if they have other names than the function."""


NO_TRAITS = Traits()
"""The traits of a function that is not in the table."""


@dataclass(frozen=True)
class Entry:
    """The handler and the traits of one function."""

    name: str
    handler: Handler
    function: Callable[..., Any] | None = None
    """The out-of-place form that computes the value of an in-place function; None to call the function itself."""
    in_place: bool = False
    traits: Traits = NO_TRAITS


class Table:
    """Registry of functions and their entries."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._by_name: dict[str, Traits] = {}

    def find(self, function: Callable[..., Any] | str) -> Entry | None:
        """Return the entry of a function, or None."""
        try:
            entry = self._entries.get(function)
        except TypeError:  # not hashable
            return None
        if entry is None and isinstance(function, (OpOverload, OpOverloadPacket)):
            return self._find_operator(function)
        return entry

    def _find_operator(self, operator: OpOverload | OpOverloadPacket) -> Entry | None:
        """Return the entry of an operator: of another library, or of ATen, as exported programs call them.

        An operator of ATen takes the same positional arguments as torch's function of that name.
        """
        packet: Any = getattr(operator, "overloadpacket", operator)
        entry = self._entries.get(packet._qualified_op_name)  # by name, because its library may be loaded later
        if entry is None and isinstance(operator, OpOverload):
            name = operator.name().removeprefix("aten::").partition(".")[0]
            functions = (getattr(place, name, None) for place in _PLACES)
            entry = next((self._entries[function] for function in functions if function in self._entries), None)
        if entry is not None:
            self._entries[operator] = entry
        return entry

    def traits(self, function: Callable[..., Any]) -> Traits:
        """Return the traits of a function; `NO_TRAITS` if it is unknown."""
        entry = self.find(function)
        return NO_TRAITS if entry is None else entry.traits

    def named(self, name: str) -> Traits:
        """Return the traits of the operation whose name matches that of a torch function, ATen operator or layer.

        torch calls an operator like its function, up to underscores, and a layer too: `nn.LeakyReLU`, `leaky_relu`.
        """
        return self._by_name.get(_plain(name), NO_TRAITS)

    def entries(self) -> dict[Any, Entry]:
        """Return a copy of all entries by function."""
        return dict(self._entries)

    def restore(self, entries: dict[Any, Entry]) -> list[str]:
        """Restore those of `entries` that were replaced, and return their names; new entries are kept."""
        replaced = {function: entry for function, entry in entries.items() if self._entries.get(function) is not entry}
        for function, entry in replaced.items():
            self.enter(function, entry)
        return sorted({entry.name for entry in replaced.values()})

    def enter(self, function: Callable[..., Any], entry: Entry) -> None:
        """Add or replace the entry of a function."""
        self._entries[function] = entry
        for name in (entry.name, *entry.traits.operators):
            self._by_name[_plain(name)] = entry.traits

    def enter_name(self, name: str, handler: Handler, traits: Traits) -> None:
        """Add an entry for every torch function called `name`, and for its in-place form."""
        if (
            "::" in name
        ):  # an operator of another library, such as torchvision::roi_align, or a form for complex numbers
            self._entries[name] = Entry(name, handler, traits=traits)
            return
        if name.startswith("Tensor."):  # a property, such as Tensor.T.__get__
            _, own, access = name.split(".")
            self.enter(getattr(getattr(Tensor, own), access), Entry(own, handler, traits=traits))
            return
        in_place = f"__i{name[2:]}" if name.startswith("__") else f"{name}_"  # __add__ → __iadd__, relu → relu_
        functions = [getattr(place, name, None) for place in _PLACES]
        # some exist out of place only elsewhere, as torch.fill for Tensor.fill_
        shared = next(filter(callable, functions), None)
        for place, function in zip(_PLACES, functions, strict=True):
            if callable(function):
                self.enter(function, Entry(name, handler, traits=traits))
            changed = getattr(place, in_place, None)
            if callable(changed):
                self.enter(changed, Entry(in_place, handler, function or shared, in_place=True, traits=traits))


def _plain(name: str) -> str:
    """Return a name without underscores and capitals."""
    return name.replace("_", "").lower()


OPERATIONS = Table()
"""All operations that the engine knows."""


def operation(*functions: str | Callable[..., Any], **traits: Any) -> Callable[[Handler], Handler]:
    """Decorator that registers a handler for functions, given as torch names or as objects, with their traits.

    >>> @operation(torch.sinc, family="activation", is_elementwise=True)
    ... def sinc(call, input):
    ...     call.refuse("has no rule yet")
    >>> OPERATIONS.find(torch.sinc).name, OPERATIONS.traits(torch.sinc).is_elementwise
    ('sinc', True)
    """
    shared = Traits(**traits)

    def enter(handler: Handler) -> Handler:
        for function in functions:
            if isinstance(function, str):
                OPERATIONS.enter_name(function, handler, shared)
            else:
                OPERATIONS.enter(function, Entry(function.__name__, handler, traits=shared))
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
    # exact types, because the constructor of a named tuple takes its fields one by one
    if type(value) in (tuple, list):
        return type(value)(substitute(item, replace) for item in value)
    if isinstance(value, dict):
        return {key: substitute(item, replace) for key, item in value.items()}
    return value


_OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_IN_PLACE = {f"__i{name}__" for name in _OPERATORS} | {"__setitem__"}


def modified(func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor | None:
    """Return the tensor that a call writes to; None if there is none.

    >>> x = torch.zeros(2)
    >>> modified(Tensor.add_, (x, 1), {}) is x, modified(torch.add, (x, 1), {})
    (True, None)
    """
    target = kwargs.get("out")
    if target is None:
        name = getattr(func, "__name__", "")
        is_in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        if (is_in_place and name != "requires_grad_") or kwargs.get("inplace"):
            target = args[0] if args else kwargs.get("input")
    return target if isinstance(target, Tensor) else None


def storage_key(tensor: Tensor) -> int:
    """Return the address of a tensor's storage; 0 for tensors without storage."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def name_of(func: Callable[..., Any]) -> str:
    """Return a function's name as users would write it."""
    return str(resolve_name(func) or getattr(func, "__qualname__", None) or getattr(func, "__name__", repr(func)))
