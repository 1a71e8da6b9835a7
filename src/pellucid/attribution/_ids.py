"""Follow token ids through a model: which input token each looked-up id stems from.

An encoder-decoder model looks up the ids once unchanged and once shifted by a start token; other models pad them. Every
function that only moves ids is applied to their positions too. Views of the ids have views of the positions, so writes
in place reach both alike.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pellucid.engine.table import substitute, tensors_in

__all__ = ["Lookups"]

NOWHERE = -1
"""Position of an id that the model inserted, such as a start token."""
_CONVERSIONS = frozenset(("to", "long", "int"))
_MOVES = _CONVERSIONS | frozenset(
    (
        *("view", "view_as", "reshape", "reshape_as", "flatten", "squeeze", "unsqueeze", "unflatten", "permute", "t"),
        *("transpose", "movedim", "swapaxes", "contiguous", "clone", "detach", "expand", "expand_as", "repeat", "roll"),
        *("repeat_interleave", "narrow", "select", "index_select", "gather", "flip", "chunk", "split", "unbind"),
        "__getitem__",
    )
)
"""Functions whose result only holds elements of their first argument."""


class Lookups(TorchFunctionMode):
    """Intercept every embedding lookup as (ids, weight, positions), and optionally replace its result.

    `positions` has the shape of the looked-up ids, and holds for each the index in the flattened input ids, or −1; None
    if it is unknown.
    """

    def __init__(self, ids: Tensor, answer: Callable[[Tensor, Tensor, Tensor | None], Tensor | None]) -> None:
        super().__init__()
        self._answer = answer
        self._positions: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the tensor is kept, so that its id stays unique
        self._enter(ids, torch.arange(ids.numel(), device=ids.device).view(ids.shape))

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.embedding:
            looked_up, weight = _ids_and_weight(*args, **kwargs)
            value = self._answer(looked_up, weight, self._of(looked_up))
            return func(*args, **kwargs) if value is None else value
        moved = self._moved(func, args, kwargs)
        value = func(*args, **kwargs)
        if moved is not None:
            values = value if isinstance(value, (tuple, list)) else [args[0] if value is None else value]
            pairs = zip(values, moved if isinstance(moved, (tuple, list)) else [moved], strict=True)
            for part, positions in pairs:
                self._enter(part, positions)
        return value

    def _enter(self, ids: Tensor, positions: Tensor) -> None:
        self._positions[id(ids)] = ids, positions

    def _of(self, tensor: object) -> Tensor | None:
        entry = self._positions.get(id(tensor))
        return None if entry is None else entry[1]

    def _moved(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Apply a function that moves ids to their positions; None for any other function."""
        if not args or not any(id(tensor) in self._positions for tensor in tensors_in((args, kwargs))):
            return None
        name, own = getattr(func, "__name__", ""), self._of(args[0])
        with torch._C.DisableTorchFunction():
            if name in _MOVES:
                # a conversion of the ids must not convert their positions
                return own if own is None or name in _CONVERSIONS else func(own, *args[1:], **kwargs)
            return self._combined(name, func, args, kwargs)

    def _combined(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return the positions of a function that combines ids with others."""
        first, rest = args[0], args[1:]
        if name in ("cat", "concat", "stack"):
            return func(self._inserted(first), *rest, **kwargs)
        if name in ("pad", "constant_pad_nd"):
            return F.pad(self._of(first), tuple(rest[0] if rest else kwargs["pad"]), value=NOWHERE)  # type: ignore[arg-type]
        if name == "where" and len(args) == 3 and func is torch.where:
            return torch.where(first, self._inserted(rest[0]), self._inserted(rest[1]))
        if name in ("masked_fill", "masked_fill_"):
            return func(self._or_nowhere(first), rest[0], NOWHERE)
        if name == "__setitem__":
            own = self._or_nowhere(first)
            own[rest[0]] = self._inserted(rest[1])
            return own
        if name == "copy_":
            return self._or_nowhere(first).copy_(self._inserted(rest[0]))
        if name.endswith("_") and not name.endswith("__"):  # any other write makes the positions unknown
            self._positions.pop(id(first), None)
        return None

    def _inserted(self, value: Any) -> Any:
        """Return the positions of values that are put among ids; constants have none."""
        return substitute(value, self._or_nowhere) if isinstance(value, (Tensor, tuple, list)) else NOWHERE

    def _or_nowhere(self, tensor: Tensor) -> Tensor:
        known = self._of(tensor)
        return torch.full(tensor.shape, NOWHERE, device=tensor.device) if known is None else known


def _ids_and_weight(input: Tensor, weight: Tensor, *_args: object, **_kwargs: object) -> tuple[Tensor, Tensor]:  # noqa: A002
    return input, weight
