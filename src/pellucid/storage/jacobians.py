"""Write the Jacobians of a whole data set to disk, chunk by chunk."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.checksum import checksum
from pellucid.core.errors import BuildError, SaveError, ShapeError
from pellucid.core.isolation import exclusive
from pellucid.core.terminal import track
from pellucid.engine.inputs import Several, as_inputs, check_is_loader
from pellucid.jacobians import jacobian_report
from pellucid.jacobians._finite import counted_from
from pellucid.jacobians._native.decision import decided
from pellucid.jacobians._native.job import expected_images, images_in
from pellucid.storage.chunked_array import ChunkedArray

__all__ = ["jacobian_to_disk"]

CHUNK_BYTES = 32_000_000
"""Approximate size of one chunk on disk."""


def jacobian_to_disk(
    model: nn.Module, loader: Iterable[Any], path: str | Path, *, chunk: int | None = None, method: str = "auto"
) -> Path:
    """Write each image's Jacobian to a chunked Zarr array (image, *outputs, *inputs) and return its folder `path`.

    Any Zarr reader can open the array (format 2, uncompressed), even while it grows. Only one chunk of images and its
    Jacobian is in memory at a time; by default a chunk takes about 32 MB on disk. A call after an interruption (or a
    full disk) resumes at the first missing chunk; each file is written atomically. All chunks are computed with the
    native kernel, or all without it, as the first one was: the attribute "native" says which.

    Args:
        model: as for `jacobian`.
        loader: yields batches of images, or tuples that start with one, in the same order at every call.
        path: a new folder, or one that an earlier call started.
        chunk: images per chunk.
        method: as for `jacobian`.

    Raises `SaveError` if the folder cannot be written, holds something else, or was started with another model or
    other images; `BuildError` if it was started with the native kernel, which this process cannot get; `ShapeError`
    for a loader without images; and the errors of `jacobian`.

    >>> from tempfile import mkdtemp
    >>> folder = jacobian_to_disk(nn.Linear(3, 2), [torch.rand(4, 3), torch.rand(3, 3)], mkdtemp(), chunk=2)
    >>> ChunkedArray.open(folder).shape
    (7, 2, 3)
    """
    images = _batches(loader, model)
    first = next(images, None)
    if first is None:
        raise ShapeError("the loader yields no images; expected at least one.")
    # one image determines the shape, dtype and default chunk size
    example = _to_numpy(jacobian_report(model, first[:1], method=method).jacobian)
    size = chunk or max(1, CHUNK_BYTES // max(example.nbytes, 1))
    attributes = {"content": "Jacobian (image, *outputs, *inputs)", "method": method, "model": _model_checksum(model)}
    array, done, total = ChunkedArray.begin(Path(path), size, example, attributes), 0, images_in(loader)
    with track("Jacobian", total) as bar:
        for number, part in enumerate(_rechunked(first, images, size)):
            mark, earlier = checksum(part), array.mark(number)
            if earlier is None:
                # errors then name an image by its position in the whole data set
                with expected_images(total), counted_from(done), _as_recorded(array):
                    report = jacobian_report(model, part, method=method)
                if number == 0 and "native" not in array.attributes:
                    array.note(native="native" in report.method.split("+"))
                array.write(number, _to_numpy(report.jacobian), mark)
            elif earlier != mark:
                raise SaveError(
                    f"{path}: the images of chunk {number} have changed since it was computed; give a loader that does "
                    "not shuffle, or another folder."
                )
            done += len(part)
            bar.update(done)
    array.finish(done)
    return Path(path)


@contextmanager
def _as_recorded(array: ChunkedArray) -> Iterator[None]:
    """Use the native kernel as for the first chunk, since results differ in the last bits.

    Nothing is recorded before the first chunk, nor for arrays of earlier versions; then, the job decides.
    """
    is_native = array.attributes.get("native")
    if is_native is None:
        yield
        return
    try:
        with decided(lambda: bool(is_native)):
            yield
    except BuildError as error:
        raise BuildError(
            f"{array.folder} was started with the native kernel, and results without it differ in the last bits. "
            f"Make it available, or start over in another folder: {error}"
        ) from error


def _batches(loader: Iterable[Any], model: nn.Module) -> Iterator[Tensor]:
    """Yield only the images, skipping empty batches."""
    check_is_loader(loader, "loader")
    for batch in loader:
        images = as_inputs(batch[0] if isinstance(batch, tuple | list) and batch else batch, model)
        if isinstance(images, Several) or not images.ndim:
            raise ShapeError("the loader yields batches that are not one tensor of images, (batch, …).")
        if len(images):
            yield images


def _rechunked(first: Tensor, rest: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the same images in batches of `size`; the last may be smaller."""
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
    """Convert to NumPy; bfloat16, which NumPy lacks, becomes float32."""
    rows = rows.cpu()
    return np.asarray((rows.float() if rows.dtype == torch.bfloat16 else rows).numpy())


def _model_checksum(model: nn.Module) -> str:
    """Return the checksum of all parameters and buffers in the state dict."""
    with exclusive():  # another thread may be explaining the model, which changes its buffers temporarily
        return checksum(*(value for value in model.state_dict().values() if isinstance(value, Tensor)))
