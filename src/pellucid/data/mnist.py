"""MNIST: 70,000 handwritten digits as 28×28 grayscale images (LeCun, Cortes and Burges, 1998)."""

import gzip
import math
import os
import struct

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.core.listing import parse_names
from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._download import fetch
from pellucid.data._resize import resized_set

__all__ = ["FILES", "PUBLIC_MIRRORS", "decode_idx", "mnist"]

PUBLIC_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
"""Tried after the user's own mirrors."""

FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""The four files and their published MD5 checksums."""

UNSIGNED_BYTES = 0x08
"""Type code of unsigned bytes in the IDX format."""


@DATASETS.register("mnist")
def mnist(request: Request) -> RawData:
    """Load the 60,000 training and 10,000 test images as bytes; the files are cached in `request.folder / "mnist"`.

    Random shifts by up to one pixel are enabled.

    Mirrors are tried in this order: `request.mirrors`, the environment variable `PELLUCID_MIRROR` (comma-separated),
    `PUBLIC_MIRRORS`. Raises `DownloadError` if none of them delivers.
    """
    # an unset or empty variable gives a single empty name
    from_environment = filter(None, parse_names(os.environ.get("PELLUCID_MIRROR", "")))
    mirrors = (*request.mirrors, *from_environment, *PUBLIC_MIRRORS)
    train_images, train_labels, test_images, test_labels = (
        decode_idx(gzip.decompress(fetch(name, md5, request.folder / "mnist", mirrors)), name)
        for name, md5 in FILES.items()
    )
    return RawData(
        train=resized_set(ImageSet(train_images.unsqueeze(1), train_labels.long()), request.image_size),
        test=resized_set(ImageSet(test_images.unsqueeze(1), test_labels.long()), request.image_size),
        classes=tuple("0123456789"),
        title="MNIST",
        shift_share=1 / 28,
        default_epochs=2,
    )


def decode_idx(content: bytes, name: str) -> torch.Tensor:
    """Decode an IDX file of bytes: two zeros, a type code, the number of axes, their sizes, then the values.

    `name` appears in the `DataError` for an invalid file.

    >>> decode_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), "labels")
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise DataError(f"{name} is not an IDX file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}.")
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{name} ends within its header: {len(content)} of {start} bytes.")
    # sizes are big-endian 32-bit integers
    sizes = struct.unpack_from(f">{axes}I", content, 4)
    if len(content) - start != math.prod(sizes):
        raise DataError(
            f"{name} announces {math.prod(sizes):,} values of shape {sizes} but has {len(content) - start:,}."
        )
    # copied, because the buffer of a bytes object is read-only
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())
