"""Running of the native kernel on a chunk of images."""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ModelError
from pellucid.jacobians._native.graph import Span, read_program
from pellucid.jacobians._native.program import Packed, encode

__all__ = ["run_kernel"]

MESSAGE_BYTES = 512
OUT_OF_MEMORY = 2
"""Result of the kernel's functions if an allocation fails; 1 for any other error, 0 for success."""


def run_kernel(
    library: ctypes.CDLL, span: Span, leaf: Tensor, rows: Tensor, seeds: Sequence[int] | Tensor, packed: Packed
) -> None:
    """Fill `rows` (batch, output, …) with derivatives of the upper end of a span by its lower end.

    `seeds` are the indices of the elements to differentiate, or cotangents (batch, output, element). `packed` is shared
    by the chunks of a call.
    """
    program = read_program(span, leaf)
    assert rows.is_contiguous()
    vector = library.pellucid_vector_bytes() // rows.element_size()
    encoder = encode(program, rows[0, 0].numel(), seeds, packed, vector)
    # not an array of ctypes, which needs a class of its own for each length
    words = array("q", encoder.words)
    function = library.pellucid_run_float if rows.dtype == torch.float32 else library.pellucid_run_double

    def run(first: int, last: int) -> str:
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        target = ctypes.c_void_p(rows[first:last].data_ptr())
        failed = function(
            ctypes.c_void_p(words.buffer_info()[0]),
            ctypes.c_int64(len(words)),
            ctypes.c_int64(first),
            ctypes.c_int64(last),
            target,
            message,
            ctypes.c_int64(MESSAGE_BYTES),
        )
        if failed == OUT_OF_MEMORY:
            return "the native kernel ran out of memory. Pass a smaller chunk, or use fewer threads."
        if failed:
            reason = message.value.decode()
            return f'the native kernel failed ({reason}); please report it, and use method="loop" meanwhile.'
        return ""

    message = _in_threads(run, len(leaf))
    if message:
        raise ModelError(message)


def _in_threads(run: Callable[[int, int], str], images: int) -> str:
    """Split the images among torch's number of threads; returns the first error message, or an empty text."""
    threads = min(torch.get_num_threads(), images)
    if threads < 2:
        return run(0, images)
    bounds = [images * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        results: list[Any] = list(pool.map(run, bounds[:-1], bounds[1:]))
    return next((message for message in results if message), "")
