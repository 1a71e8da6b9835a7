"""Function arguments: find the tensors in nested containers, and substitute them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import resolve_name

__all__ = ["name_of", "storage_key", "substitute", "tensors_in"]


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
