"""Write the Jacobians of a whole data set to disk, shard by shard."""

from collections.abc import Iterable, Iterator
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
from pellucid.jacobians import JacobianReport, jacobian_report
from pellucid.jacobians._finite import counted_from
from pellucid.jacobians._native.decision import decided
from pellucid.jacobians._native.job import expected_images, images_in
from pellucid.storage.sharded import Address, Layout, ShardedStore, Variable

__all__ = ["jacobian_to_disk"]

SHARD_BYTES = 32_000_000
"""Approximate size of one shard before compression."""
IMAGE_AXES = ("channel", "height", "width")


def jacobian_to_disk(
    model: nn.Module, loader: Iterable[Any], path: str | Path, *, chunk: int | None = None, method: str = "auto"
) -> Path | str:
    """Write each image's Jacobian to a Zarr store (format 3), and return its folder or address.

    The store is a group with the array `jacobian`, (image, *outputs, *inputs), which any Zarr reader and xarray can
    open, even while it grows; `open_explanations(path).jacobian` does, too. Only one shard of images and its Jacobian
    is in memory at a time; by default a shard takes about 32 MB before compression. A call after an interruption (or a
    full disk) resumes at the first missing shard. All shards are computed with the native kernel, or all without it, as
    the attribute `native` says. For data sets on several processes, see `explain_to_disk(…, jacobian=True)`.

    Args:
        model: as for `jacobian`.
        loader: yields batches of images, or tuples that start with one, in the same order at every call.
        path: a new folder, or one that an earlier call started; or an address that fsspec understands.
        chunk: images per shard.
        method: as for `jacobian`.

    Raises `SaveError` if the folder cannot be written, holds something else, or was started with another model or
    other images; `BuildError` if it was started with the native kernel, which this process cannot get; `ShapeError`
    for a loader without images; and the errors of `jacobian`.

    >>> import zarr
    >>> from tempfile import mkdtemp
    >>> folder = jacobian_to_disk(nn.Linear(3, 2), [torch.rand(4, 3), torch.rand(3, 3)], mkdtemp(), chunk=2)
    >>> zarr.open(folder)["jacobian"].shape
    (7, 2, 3)
    """
    images = _batches(loader, model)
    first = next(images, None)
    if first is None:
        raise ShapeError("the loader yields no images; expected at least one.")
    address, total = Address.of(path), images_in(loader)
    native = (ShardedStore.attributes_at(address) or {}).get("native")
    # one image determines the shape, the dtype, the usual size of a shard and whether the kernel pays off
    if isinstance(native, bool):  # decided, and a finished store needs no kernel
        example = _report(model, first[:1], "auto", False, address)
    else:
        with expected_images(total):
            example = _report(model, first[:1], method, None, address)
        native = "native" in example.method.split("+")
    store = ShardedStore.join(address, _layout(example, first, chunk, method, model, native))
    done = 0
    with track("Jacobian", total) as bar:
        for number, part in enumerate(_rechunked(first, images, store.shard)):
            mark, earlier = checksum(part), store.mark(number)
            if earlier is None:
                # errors then name an image by its position in the whole data set
                with expected_images(total), counted_from(done):
                    report = _report(model, part, method, store.attributes["native"], address)
                store.write(number, {"jacobian": _to_numpy(report.jacobian)}, mark)
            elif earlier != mark:
                raise SaveError(
                    f"{path}: the images of shard {number} have changed since it was computed; give a loader that does "
                    "not shuffle, or another folder."
                )
            done += len(part)
            if earlier is None:
                store.resize(done)
            bar.update(done)
    store.resize(done)
    return str(address) if address.folder is None else Path(path).expanduser()


def _layout(
    example: JacobianReport, images: Tensor, chunk: int | None, method: str, model: nn.Module, native: bool
) -> Layout:
    row = _to_numpy(example.jacobian)[0]
    inputs = images.ndim - 1
    outputs = row.ndim - inputs
    names = (
        *(("class",) if outputs == 1 else (f"output_{axis}" for axis in range(outputs))),
        *(IMAGE_AXES if inputs == 3 else (f"input_{axis}" for axis in range(inputs))),
    )
    shard = chunk or max(1, SHARD_BYTES // max(row.nbytes, 1))
    attributes = {
        "content": "Jacobian (image, *outputs, *inputs)",
        "format": 1,
        "images": None,
        "shard": shard,
        "method": method,
        "model": _model_checksum(model),
        "native": native,
    }
    return Layout(None, shard, (Variable("jacobian", row.dtype.name, ("image", *names), row.shape),), attributes)


def _report(model: nn.Module, images: Tensor, method: str, native: bool | None, address: Address) -> JacobianReport:
    """Compute a Jacobian with the kernel or without it, as the store was begun, since results differ in last bits."""
    try:
        with decided(None if native is None else lambda: native):
            return jacobian_report(model, images, method=method)
    except BuildError as error:
        if native is None:
            raise
        raise BuildError(
            f"{address} was started with the native kernel, and results without it differ in the last bits. "
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
