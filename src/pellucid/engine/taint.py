"""Find dependencies on the image that the recorder cannot see, at the level of torch's operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.engine.table import tensors_in

__all__ = ["TaintWatch"]


class TaintWatch(TorchDispatchMode):
    """Tracks everything computed from the image, at the level of the operators below a model's function calls.

    Tensors are identified by their memory. The output of a computation with tainted inputs is tainted. A comparison
    converted to numbers (a mask) is not, since it is constant almost everywhere.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, for seconds, only to keep it away from this class

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, torch.UntypedStorage] = {}  # keeps storages alive, so that no address is reused
        self._taint(images)

    def knows(self, tensor: Tensor) -> bool:
        """True if a tensor is tainted."""
        try:
            storage = tensor.untyped_storage()
            # 0 is the address of every empty tensor
            return storage.data_ptr() in self._kept and storage.data_ptr() != 0
        except (RuntimeError, NotImplementedError):
            return True  # the wrapper tensor of a transform, such as vmap's, has no storage

    def _taint(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = storage

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # the watch's own calls must not reach the recorder
            return self._follow(func, args, kwargs or {})

    def _follow(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        sources = [tensor for tensor in tensors_in((args, kwargs)) if self.knows(tensor)]
        is_constant = getattr(func, "overloadpacket", None) in _CONSTANT
        if sources and not is_constant and not _is_mask(sources):
            for tensor in tensors_in(result):
                self._taint(tensor)
        return result


_aten = torch.ops.aten
_CONSTANT = {
    _aten.histc,
    _aten.bincount,
    _aten.zeros_like,
    _aten.ones_like,
    _aten.full_like,
    _aten.empty_like,
    _aten.new_zeros,
    _aten.new_ones,
    _aten.new_full,
    _aten.new_empty,
    _aten.new_empty_strided,
}
"""Operators that use a tensor's shape but not its values, or that count values."""


def _is_mask(sources: list[Tensor]) -> bool:
    return all(source.dtype == torch.bool for source in sources)
