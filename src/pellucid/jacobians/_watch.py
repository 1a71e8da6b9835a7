"""Detection of operations in a forward pass that would make autograd's derivative wrong."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.batch_norm import NORMS, refuse_batch_statistics, sound_norm, uses_batch_statistics
from pellucid.engine.model import check_autocast
from pellucid.engine.operations import OPERATIONS

__all__ = ["PathWatch"]


_WAY_OUT = 'or use method="finite_difference", which needs only forward passes.'


class PathWatch(TorchFunctionMode):
    """Tracks the values that depend on the input through one forward pass.

    Raises `UnsupportedOperation` for batch statistics, active dropout, and tensors converted to Python or NumPy
    numbers. Records values that have lost their gradient (`detach`, `.data`, `no_grad`); `check` raises an error if the
    output depends on one, because its derivative would be silently wrong. Integers and booleans (a mask, a rank) are
    piecewise constant, so they do not count.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        # keyed by id; storing the tensor keeps it alive, so that its id is not reused
        self._without_gradient: dict[int, tuple[Tensor, str, tuple[bool, int]]] = {}
        self.calls: list[object] = []
        """The functions called, with the shape and dtype of each result."""
        self.last_without_gradient = ""
        """Last operation that turned a value with a gradient into one that cannot have a gradient (integers)."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check_autocast(func, args, kwargs)
        traits = OPERATIONS.traits(func)
        if traits.family == "dropout":
            _refuse_dropout(func, args, kwargs)
        result = self._run_norm(func, args, kwargs) if func in NORMS else None
        if result is None:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self.calls.append((func, result.shape, result.dtype))
            if result.requires_grad and not self._without_gradient:  # fast path: no gradient has been lost so far
                return result
        else:
            self.calls.append(func)
        # `constant.to(x)` and the like use x only for its dtype or shape
        tensors = _tensors((args[:1],) if traits.takes_template else (args, kwargs), [])
        lost = next(filter(None, map(self._gradient_lost_in, tensors)), None) if self._without_gradient else None
        if lost is not None or any(tensor.requires_grad for tensor in tensors):
            if traits.returns_numbers and tensors[0].is_floating_point():
                raise UnsupportedOperation(
                    f"{_name_of(func)} takes a value that depends on the input out of the graph, so its effect on the "
                    f"outputs has no derivative. Compute with tensors instead, {_WAY_OUT}"
                )
            self._note(func, result, lost)
        return result

    def _run_norm(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a normalization with a correct derivative; None if the original is fine as it is."""
        if uses_batch_statistics(func, args, kwargs) and any(map(self._gradient_lost_in, _tensors(args[:1], []))):
            refuse_batch_statistics(self._model)  # statistics of the input even if its gradient was lost
        return sound_norm(func, args, kwargs, self._model)

    def _note(self, func: Callable[..., Any], result: Any, lost: str | None) -> None:
        """Record the tensors in `result` that have lost their gradient, here or (`lost`) in an earlier operation."""
        for value in _tensors((result,), []):
            if not value.is_floating_point():
                self.last_without_gradient = _name_of(func)
            elif lost is not None:
                self._without_gradient[id(value)] = (value, lost, _state(value))
            elif not (value.requires_grad or OPERATIONS.traits(func).is_constant):
                self._without_gradient[id(value)] = (value, _name_of(func), _state(value))

    def _gradient_lost_in(self, tensor: Tensor) -> str | None:
        """Return the name of the operation that cost a value its gradient, or None.

        The results of a custom `autograd.Function` get their gradient only after this mode has seen them, so a value is
        exempt if it requires a gradient now and has not been modified since.
        """
        _, name, before = self._without_gradient.get(id(tensor), (None, None, None))
        was_given_gradient = before == (False, tensor._version) and tensor.requires_grad
        return None if was_given_gradient else name

    def check(self, output: Tensor) -> None:
        """Raise `UnsupportedOperation` if the output depends on a value that lost its gradient, or has no gradient."""
        name = self._gradient_lost_in(output)
        if name is not None:
            raise UnsupportedOperation(
                f"{name} cuts the output off from the input (entirely or in part), so the derivative would be silently "
                f"wrong. Remove it from the model, {_WAY_OUT}"
            )
        if not output.requires_grad:
            raise UnsupportedOperation(
                "the outputs have no gradient with respect to the input"
                + (f": {self.last_without_gradient} has no derivative" if self.last_without_gradient else "")
                + f". Remove detach, no_grad and conversions to integers from the model, {_WAY_OUT}"
            )


def _refuse_dropout(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    # training and p by name or position; both may be left at their defaults
    if kwargs.get("training", args[2] if len(args) > 2 else True):
        rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        if rate:
            raise UnsupportedOperation(
                f"{_name_of(func)} is on although the model is in eval mode, so the outputs are random. Pass it "
                "training=self.training."
            )


def _state(tensor: Tensor) -> tuple[bool, int]:
    """Return whether a tensor requires a gradient, and its version, which every in-place operation increments."""
    return tensor.requires_grad, tensor._version


def _name_of(func: Callable[..., Any]) -> str:
    """Return the name of a torch function as users write it."""
    name = resolve_name(func) or getattr(func, "__name__", str(func))
    return name.removesuffix(".__get__").replace("torch.Tensor.", "").replace("torch.nn.functional.", "")


def _tensors(values: Iterable[Any], collected: list[Tensor]) -> list[Tensor]:
    """Append all tensors in `values`, nested lists, tuples and dicts included, to `collected` and return it."""
    for value in values:
        if isinstance(value, Tensor):
            collected.append(value)
        elif isinstance(value, tuple | list):
            _tensors(value, collected)
        elif isinstance(value, dict):
            _tensors(value.values(), collected)
    return collected
