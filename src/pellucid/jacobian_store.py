"""Jacobians of a whole data set on disk, chunk by chunk: the mathematics of one part, the files of another."""

from collections.abc import Iterable, Iterator, Sized
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.artifacts.chunked_array import ChunkedArray
from pellucid.core.errors import SaveError, ShapeError
from pellucid.core.isolation import exclusive
from pellucid.core.terminal import track
from pellucid.jacobian import jacobian
from pellucid.jacobian._finite import counted_from

__all__ = ["jacobian_to_disk"]

CHUNK_BYTES = 32_000_000
"""About the size of one chunk on disk."""


def jacobian_to_disk(
    model: nn.Module, loader: Iterable[Any], path: str | Path, *, chunk: int | None = None, method: str = "auto"
) -> Path:
    """Every image's Jacobian as a chunked Zarr array (image, *outputs, *inputs) in the folder `path`, which it returns.

    Any Zarr reader opens it (format 2, uncompressed), also while it grows. One chunk of images and its Jacobian is held
    at a time: `chunk` images, by default so many that a chunk on disk has about 32 MB. Called again after an
    interruption (or a full disk), it goes on with the first chunk that is not there; each file is whole or absent.

    Args:
        model: as for `jacobian`.
        loader: yields batches of images, or tuples that begin with one, in the same order at every call.
        path: a folder of its own.
        chunk: images per chunk.
        method: as for `jacobian`.

    Raises `SaveError` where the folder cannot be written, holds something else, or was begun with another model or
    other images; `ShapeError` for a loader without images; and what `jacobian` raises.

    >>> from tempfile import mkdtemp
    >>> folder = jacobian_to_disk(nn.Linear(3, 2), [torch.rand(4, 3), torch.rand(3, 3)], mkdtemp(), chunk=2)
    >>> ChunkedArray.open(folder).shape
    (7, 2, 3)
    """
    images = _batches(loader)
    first = next(images, None)
    if first is None:
        raise ShapeError("the loader yields no images; give at least one.")
    example = _to_numpy(jacobian(model, first[:1], method=method))
    size = chunk or max(1, CHUNK_BYTES // max(example.nbytes, 1))
    attributes = {"content": "Jacobian (image, *outputs, *inputs)", "method": method, "model": _fingerprint(model)}
    array, done = ChunkedArray.begin(Path(path), size, example, attributes), 0
    with track("Jacobian", len(loader.dataset) if hasattr(loader, "dataset") and _has_length(loader) else None) as bar:
        for number, part in enumerate(_rechunked(first, images, size)):
            mark, earlier = _checksum(part), array.mark(number)
            if earlier is None:
                with counted_from(done):
                    rows = jacobian(model, part, method=method)
                array.write(number, _to_numpy(rows), mark)
            elif earlier != mark:
                raise SaveError(
                    f"{path}: the images of chunk {number} are not those it was computed from; give a loader that does "
                    "not shuffle, or another folder."
                )
            done += len(part)
            bar.update(done)
    array.finish(done)
    return Path(path)


def _has_length(loader: Any) -> bool:
    return isinstance(loader.dataset, Sized)


def _batches(loader: Iterable[Any]) -> Iterator[Tensor]:
    """The images alone, without empty batches."""
    for batch in loader:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if len(images):
            yield images


def _rechunked(first: Tensor, rest: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """The same images in batches of `size`; the last may be smaller."""
    held = first
    while True:
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
        following = next(rest, None)
        if following is None:
            break
        held = torch.cat([held, following])
    if len(held):
        yield held


def _to_numpy(rows: Tensor) -> np.ndarray:
    """As NumPy has it: bfloat16, which it lacks, becomes float32."""
    rows = rows.cpu()
    return np.asarray((rows.float() if rows.dtype == torch.bfloat16 else rows).numpy())


def _checksum(*tensors: Tensor) -> str:
    """Of dtype, shape and content."""
    total = sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _fingerprint(model: nn.Module) -> str:
    """Of all parameters and buffers that a state dict holds."""
    with exclusive():  # another thread's explanation may be running the model, which changes buffers for a while
        return _checksum(*(value for value in model.state_dict().values() if isinstance(value, Tensor)))
