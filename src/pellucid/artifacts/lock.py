"""One run at a time in a save folder."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pellucid.artifacts._atomic import write_json
from pellucid.core.errors import SaveError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; it is free again when the process ends, however it ends.

    Raises `SaveError` where another run holds it (the message tells which process), or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SaveError(
            f"a run is already going on in {folder} ({_owner(folder)}); wait for it, stop it, or choose another "
            "folder with --save."
        ) from error
    except OSError as error:
        raise SaveError(f"{folder} cannot be written ({error}); choose another folder with --save.") from error
    try:
        write_json(folder / ".owner.json", {"process": os.getpid(), "machine": platform.node()})
        yield
    finally:
        (folder / ".owner.json").unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / ".owner.json").read_text())
        return f"process {owner['process']} on {owner['machine']}"
    except (OSError, ValueError, KeyError):
        return "of an unknown process"
