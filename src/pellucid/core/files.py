"""Safe reads of regular files, and atomic replacement of files."""

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pellucid.core.errors import DataError

__all__ = ["MOST_BYTES", "TEMPORARY", "check_files", "is_shortage", "read_regular", "replace_file"]

TEMPORARY = ".pellucid-*.tmp"
"""Pattern of the names of temporary files; those of a killed process are deleted by the next run."""

MOST_BYTES = 2_000_000_000
"""Maximum size of a file; the largest are checkpoints and weights."""


def check_files(paths: Sequence[Path]) -> None:
    """Raise a `DataError` that names all paths that do not exist or are folders."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        one = len(missing) == 1
        raise DataError(f"the image{'' if one else 's'} {', '.join(missing)} {'does' if one else 'do'} not exist.")
    folders = [str(path) for path in paths if path.is_dir()]
    if folders:
        raise DataError(f"{', '.join(folders)} is a folder; pass the images in it, such as {folders[0]}/*.jpg.")


def is_shortage(error: BaseException) -> bool:
    """Return True if an error means that memory or open files have run out, whatever was being read.

    >>> is_shortage(OSError(errno.EMFILE, "too many open files")), is_shortage(FileNotFoundError(errno.ENOENT, "gone"))
    (True, False)
    """
    is_short = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return is_short or isinstance(error, MemoryError)


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


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` atomically: write a temporary file in the same folder, then rename it.

    Raises an `OSError` on failure; the previous content of `path` is then intact.
    """
    # in the same folder, because a rename is atomic only within one file system
    temporary = path.parent / TEMPORARY.replace("*", secrets.token_hex(8))
    try:
        with temporary.open("xb") as file:  # unlike with `tempfile`, the umask decides who can read the file
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power failure after the rename can leave an empty file
        temporary.replace(path)
    # also for Ctrl-C, which must not leave a temporary file behind
    except BaseException:
        with suppress(OSError):  # the folder may be gone, too
            temporary.unlink(missing_ok=True)
        raise
