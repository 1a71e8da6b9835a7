"""What a forward pass must not do if its derivative is to be right, seen while it runs and refused by name."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.batch_norm import NORMS, refuse_batch_statistics, sound_norm, uses_batch_statistics
from pellucid.engine.guards import check_autocast

__all__ = ["PathWatch"]

_DROPOUTS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
_WAY_OUT = 'or take method="finite_difference", which differentiates what the model computes.'


class PathWatch(TorchFunctionMode):
    """Follows the values that depend on the input, through one forward pass.

    Raises `UnsupportedOperation` for batch statistics, for dropout that is on, and for values taken out as plain
    numbers. Keeps a note on values that lost their gradient on the way (`detach`, `.data`, `no_grad`), which `check`
    turns into an error where the output hangs on one: its derivative would be wrong without a word. Whole numbers and
    booleans (a mask, a rank) are piecewise constant, and no loss.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self._lost: dict[int, tuple[Tensor, str, tuple[bool, int]]] = {}
        # by id, which stays the tensor's own as long as it is kept here
        self.calls: list[object] = []
        """Each function that was called, with shape and dtype of what it returned."""
        self.last_without_gradient = ""
        """The last operation that took a value with a gradient and returned one that can have none."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check_autocast(func, args, kwargs)
        if func in _DROPOUTS:
            _refuse_dropout(func, args, kwargs)
        result = self._normalised(func, args, kwargs) if func in NORMS else None
        if result is None:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self.calls.append((func, result.shape, result.dtype))
            if result.requires_grad and not self._lost:  # so nothing is lost on the way to it
                return result
        else:
            self.calls.append(func)
        # of `constant.to(x)` and the like, the other tensor tells a dtype or a shape alone
        tensors = _tensors(args[:1], []) if func in _LIKE else _tensors(args, _tensors(tuple(kwargs.values()), []))
        lost = next(filter(None, map(self._loss_of, tensors)), None) if self._lost else None
        if lost is not None or any(tensor.requires_grad for tensor in tensors):
            if func in _EXITS and tensors[0].is_floating_point():
                raise UnsupportedOperation(
                    f"{_name_of(func)} takes a value that depends on the input out of the graph, and what is done with "
                    f"it has no derivative; compute with tensors, {_WAY_OUT}"
                )
            self._note(func, result, lost)
        return result

    def _normalised(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a norm returns; None for one that is to be called as it is."""
        if uses_batch_statistics(func, args, kwargs) and any(map(self._loss_of, _tensors(args[:1], []))):
            refuse_batch_statistics(self._model)  # of the input, although its gradient was lost on the way
        return sound_norm(func, args, kwargs, self._model)

    def _note(self, func: Callable[..., Any], result: Any, lost: str | None) -> None:
        for value in _tensors((result,), []):
            if not value.is_floating_point():
                self.last_without_gradient = _name_of(func)
            elif lost is not None:
                self._lost[id(value)] = (value, lost, _state(value))
            elif not value.requires_grad and func not in _CONSTANT:
                self._lost[id(value)] = (value, _name_of(func), _state(value))

    def _loss_of(self, tensor: Tensor) -> str | None:
        """What cost a value its gradient. What a user's own Function returns gets its gradient after it was made."""
        _, name, before = self._lost.get(id(tensor), (None, None, None))
        was_given_gradient = before == (False, tensor._version) and tensor.requires_grad
        return None if was_given_gradient else name

    def check(self, output: Tensor) -> None:
        """Raise `UnsupportedOperation` where the output hangs on a value that lost its gradient, or has none."""
        name = self._loss_of(output)
        if name is not None:
            raise UnsupportedOperation(
                f"{name} cuts the output off from the input (wholly or in part), so its derivative would be wrong "
                f"without a word; leave it out of the model, {_WAY_OUT}"
            )
        if not output.requires_grad:
            raise UnsupportedOperation(
                "the outputs carry no gradient to the input"
                + (f": {self.last_without_gradient} has no derivative" if self.last_without_gradient else "")
                + f"; the model must not detach, round to whole numbers or use no_grad, {_WAY_OUT}"
            )


_CONSTANT = {
    torch.zeros_like,
    torch.ones_like,
    torch.empty_like,
    torch.full_like,
    torch.rand_like,
    torch.randn_like,
    torch.sign,
    Tensor.sign,
    Tensor.new_zeros,
    Tensor.new_ones,
    Tensor.new_full,
    Tensor.new_empty,
    Tensor.new_tensor,
}
"""What takes a tensor for its shape alone, or is constant in pieces."""


_LIKE = {Tensor.to, Tensor.type_as, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as}
"""What changes its first argument to be like another tensor."""

_EXITS = {Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.numpy}
"""What turns a tensor into plain numbers."""


def _refuse_dropout(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    if kwargs.get("training", args[2] if len(args) > 2 else True):
        share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        if share:
            raise UnsupportedOperation(
                f"{_name_of(func)} is on although the model is in eval mode, so the outputs are random; "
                "pass it training=self.training."
            )


def _state(tensor: Tensor) -> tuple[bool, int]:
    return tensor.requires_grad, tensor._version


def _name_of(func: Callable[..., Any]) -> str:
    name = resolve_name(func) or getattr(func, "__name__", str(func))
    return name.removesuffix(".__get__").replace("torch.Tensor.", "").replace("torch.nn.functional.", "")


def _tensors(values: Iterable[Any], found: list[Tensor]) -> list[Tensor]:
    """`found` with all tensors among some values, in lists, tuples and dicts too."""
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            _tensors(value, found)
        elif isinstance(value, dict):
            _tensors(value.values(), found)
    return found
