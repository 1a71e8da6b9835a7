"""Read regular files, whatever else a path may lead to."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["MOST_BYTES", "read_regular"]

MOST_BYTES = 2_000_000_000
"""Maximum size of a file; the largest are checkpoints and weights."""


def read_regular(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file; raises an `OSError`, whose `strerror` is the reason, for a pipe, a device or one too large.

    Opening a pipe or a device could wait forever, or have side effects.
    """
    # without O_NONBLOCK, opening a pipe would wait for somebody who writes to it
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:  # noqa: PTH123  (an open descriptor)
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, "the file is too large")
        return file.read(most_bytes)
