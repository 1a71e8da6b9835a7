"""Guarded reads of a save folder, which may come from somebody else.

A file is read only if its path stays inside the folder after all links are resolved, if it is a regular file, and if it
is not too large. JSON must not be nested too deeply, and arrays must not unpack to more than a limit.
"""

import errno
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.files import MOST_BYTES, read_regular

__all__ = ["MOST_UNPACKED", "parse_json", "read_inside", "unpack_arrays"]

MOST_UNPACKED = 2_000_000_000
"""Maximum size of the arrays in an .npz file; a small file can unpack to any size."""


def read_inside(folder: Path, path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file below `folder`.

    Raises `FileNotFoundError` if it does not exist, and another `OSError`, whose `strerror` is the reason, if it must
    not be read: a path that leaves the folder, a pipe or a device, or a file that is too large.
    """
    try:
        root = folder.resolve()
        location = (root / path).resolve()
    except (ValueError, RuntimeError) as error:  # a NUL character; a loop of symbolic links
        raise OSError(errno.EINVAL, "its path is invalid") from error
    if not location.is_relative_to(root):
        raise OSError(errno.EPERM, "its path is outside the save folder")
    return read_regular(location, most_bytes)


def parse_json(content: bytes | str) -> Any:
    """Parse JSON; raises `ValueError` for anything else, and for nesting beyond Python's recursion limit.

    >>> parse_json(b'{"a": 1}')
    {'a': 1}
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unpack_arrays(content: bytes, most_bytes: int = MOST_UNPACKED) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; raises `ValueError` if they are larger than `most_bytes` or damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # zipfile never unpacks more of a member than the size it declares
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most_bytes:
            raise ValueError(f"the arrays take {unpacked / 1e6:,.0f} MB, at most {most_bytes / 1e6:,.0f} MB are read")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, EOFError, OSError, MemoryError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged or not an .npz file ({type(error).__name__}: {error})") from error
