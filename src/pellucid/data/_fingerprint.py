"""Fingerprint of a data set, from its names, numbers and labels, without reading images."""

from hashlib import sha256

import numpy as np

from pellucid.core.errors import DataError
from pellucid.data._lazy import LazyImages

__all__ = ["fingerprint_of"]


def fingerprint_of(images: LazyImages) -> str:
    """Return a SHA-256 that identifies the images of a data set without reading them.

    Processes compare it to make sure that they work on the same images in the same order. It covers the kind of data
    set, the number of images, the labels and class names that are known without reading images, and what the source
    knows about its contents: names and sizes of files (of a folder with many files, the sizes of 10,000), keys, shapes
    and types of arrays. Paths above the data set and times of files are not part of it, so it is equal on machines that
    mount the data at different places. An image that changes without changing any of these is not noticed.

    Raises `DataError` for a stream.

    >>> import torch
    >>> pair = [LazyImages("pair", "Pair", 2, lambda _: iter(()), torch.tensor([0, label])) for label in (0, 1)]
    >>> fingerprint_of(pair[0]) == fingerprint_of(pair[0]), fingerprint_of(pair[0]) == fingerprint_of(pair[1])
    (True, False)
    """
    if images.total is None:
        raise DataError(f"{images.name} is a stream, whose images are unknown before reading.")
    total = sha256()

    def add(part: bytes | memoryview) -> None:
        # with its length, so that the parts cannot be cut differently
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)

    # the name of a file or folder contains its path, which `contents` replaces
    kind = images.name if images.contents is None else images.name.partition(":")[0]
    for text in (kind, str(images.total), repr(images.classes), repr(bool(images.unlabeled))):
        add(text.encode("utf-8", "surrogateescape"))
    if images.labels is not None:
        # little-endian on every machine
        add(np.ascontiguousarray(images.labels.cpu().numpy().astype("<i8", copy=False)).data.cast("B"))
    for part in () if images.contents is None else images.contents():
        add(part)
    return total.hexdigest()
