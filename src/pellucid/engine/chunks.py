"""How many images one pass takes, so that its tensors stay where memory is fast to get."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LARGEST_TENSOR_BYTES", "images_per_chunk", "keep_freed_memory", "largest_tensor_bytes"]

LARGEST_TENSOR_BYTES = 30_000_000
"""Above about 32 MB, an allocator asks the system for fresh pages at every call, which costs more than arithmetic."""


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed for the next tensor, where it learns from the largest one freed (glibc).

    Without it, tensors of a few megabytes are handed back to the system each time, and their fresh pages take a third
    of the time of a pass. The process keeps up to 32 MB more. The memory here is never written, so it costs nothing. A
    tensor would be filled where deterministic algorithms are asked for; a bare storage is not.
    """
    torch.UntypedStorage(16_000_000, device="cpu")


def images_per_chunk(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """So many images at once keep every tensor of `call(images)` below `LARGEST_TENSOR_BYTES`; at least 1.

    Measured by one pass of the first image, in which the largest tensor that any operation returns is noted.

    >>> images_per_chunk(torch.nn.Flatten(), torch.zeros(64, 1, 1000, 1000))
    7
    """
    return max(1, LARGEST_TENSOR_BYTES // largest_tensor_bytes(call, images)) if len(images) > 1 else 1


def largest_tensor_bytes(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """The size of the largest tensor, itself included, that `call` makes of the first image."""
    with torch.no_grad(), _SizeWatch() as watch:
        call(images[:1].clone())
    return max(watch.largest, images[:1].numel() * images.element_size(), 1)


class _SizeWatch(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation returns; transposed weights and other views apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            for value in result if isinstance(result, tuple | list) else (result,):
                if isinstance(value, Tensor):
                    self.largest = max(self.largest, value.numel() * value.element_size())
        return result
