"""Choose the number of images per forward pass, so that allocating its tensors stays fast."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LARGEST_TENSOR_BYTES", "images_per_chunk", "keep_freed_memory", "largest_tensor_bytes"]

LARGEST_TENSOR_BYTES = 30_000_000
"""Above about 32 MB, the allocator requests fresh pages from the system at every call, which costs more than the
arithmetic."""


def keep_freed_memory() -> None:
    """Make glibc's allocator keep freed memory for later tensors, by freeing one large block.

    glibc adapts its threshold to the largest block freed. Otherwise tensors of a few megabytes are returned to the
    system each time, and faulting in fresh pages takes a third of a forward pass. The process retains up to 32 MB more.
    """
    # Never written to, so it costs nothing. A storage, because with deterministic algorithms torch fills new tensors.
    torch.UntypedStorage(16_000_000, device="cpu")


def images_per_chunk(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """Return the number of images that keeps every tensor of `call(images)` below `LARGEST_TENSOR_BYTES`; at least 1.

    Runs the first image once and measures the largest tensor that any operation returns.

    >>> images_per_chunk(torch.nn.Flatten(), torch.zeros(64, 1, 1000, 1000))
    7
    """
    return max(1, LARGEST_TENSOR_BYTES // largest_tensor_bytes(call, images)) if len(images) > 1 else 1


def largest_tensor_bytes(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """Return the size of the largest tensor in `call` on the first image, including the image itself."""
    with torch.no_grad(), _SizeWatch() as watch:
        call(images[:1].clone())
    return max(watch.largest, images[:1].numel() * images.element_size(), 1)


class _SizeWatch(TorchDispatchMode):
    """Measures the largest tensor in bytes that an operation returns; ignores views, such as transposed weights."""

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
