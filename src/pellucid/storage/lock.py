"""A lock that allows one run at a time in a save folder."""

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pellucid.core.errors import SaveError
from pellucid.storage.atomic import write_json
from pellucid.storage.reading import parse_json, read_inside

__all__ = ["is_locked", "locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process; the operating system releases the lock even if the process is killed.

    If the body raises before a run has begun in the folder, what this function created is removed again.

    Raises `SaveError` if another run holds the lock, naming its process, or if the folder is not writable.
    """
    new = [path for path in (folder / ".lock", folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_plain(folder / ".lock")
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    # first, because Timeout is an OSError too
    except Timeout as error:
        if _owner(folder) == _description(os.getpid(), platform.node()):  # such as a notebook cell that runs again
            raise SaveError(
                f"this process itself is still using {folder}: call close() on what pellucid.watch returned, or choose "
                "another folder with save=."
            ) from error
        raise SaveError(
            f"another run is using {folder} ({_owner(folder)}); wait for it to finish, stop it, or choose another "
            "folder with --save."
        ) from error
    except OSError as error:
        raise SaveError(f"{folder} cannot be written ({error}); choose another folder with --save.") from error
    try:
        write_json(folder / ".owner.json", {"process": os.getpid(), "machine": platform.node()})
        yield
    except BaseException:
        if not (folder / "run.json").exists():
            (folder / ".owner.json").unlink(missing_ok=True)
            _remove(new)
        raise
    finally:
        # before the release, after which the file can belong to the next run
        with suppress(OSError):  # a disk that has become read-only must not end the caller's training
            (folder / ".owner.json").unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return True if a process, perhaps this one, holds the lock of `folder`; changes nothing.

    Also True if that cannot be told, for example in a folder of another user.
    """
    path = folder / ".lock"
    try:
        _check_plain(path)
        if not path.exists():
            return False
        # another FileLock of this path, which this process may hold: it competes like one of another process
        lock = FileLock(path, is_singleton=False)
        lock.acquire(timeout=0)
    except OSError:  # Timeout is one, too
        return True
    lock.release()
    return False


def _remove(paths: list[Path]) -> None:
    """Remove a lock file and empty folders, innermost first; a folder with other files stays."""
    for path in paths:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _owner(folder: Path) -> str:
    try:
        owner = parse_json(read_inside(folder, ".owner.json"))
        return _description(owner["process"], owner["machine"])
    except (OSError, ValueError, KeyError, TypeError):  # the file may be damaged, or written by somebody else
        return "unknown process"


def _description(process: object, machine: object) -> str:
    return f"process {process} on {machine}"


def _check_plain(lock: Path) -> None:
    """Raise `OSError` for a link or a pipe: opening a lock file empties it, and could wait."""
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise OSError(errno.EINVAL, f"{lock.name} is not a regular file")
