"""The user's folder of compiled libraries, in which nothing damaged or foreign is loaded."""

import logging
import os
import platform
import secrets
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pellucid.core.errors import BuildError
from pellucid.core.files import read_regular

__all__ = ["add_library", "cache_folder", "distrust", "find_library", "library_key"]

KEPT = 8
"""Number of libraries that stay in the folder, the newest ones: a home folder can be shared by several machines."""

LARGEST_BYTES = 100_000_000

STALE_SECONDS = 3600.0
"""Age of temporary files that a killed process must have left behind."""

CPU_FIELDS = {"model name", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features", "isa", "cpu"}
"""Lines of /proc/cpuinfo that say which instructions `-march=native` may use, by the names of several architectures."""

log = logging.getLogger("pellucid.jacobian")


def cache_folder() -> Path:
    """Return the folder for libraries, which need not exist; the environment variable PELLUCID_CACHE overrides it.

    Raises `BuildError` if the user has no home folder.
    """
    if chosen := os.environ.get("PELLUCID_CACHE"):
        return Path(os.path.abspath(chosen), "native")  # noqa: PTH100
    try:
        return _user_caches() / "pellucid" / "native"
    except RuntimeError as error:
        raise BuildError("there is no home folder for the native kernel; set PELLUCID_CACHE to a folder.") from error


def _user_caches() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # the specification says that relative paths are ignored
    return Path(chosen) if chosen.startswith("/") else Path.home() / ".cache"


def library_key(source: bytes, flags: tuple[str, ...]) -> str:
    """Return the first part of a library's name, a checksum of the source, the flags, the CPU and the C library.

    The compiler is not part of it, because its version is known only after starting it, and looking into the cache
    must be fast. A library stays correct when the compiler is updated; `build_native(force=True)` replaces it.
    """
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) else ""
    facts = [*flags, sys.platform, platform.machine(), libc or "", _cpu()]
    return sha256(b"\0".join([*(fact.encode() for fact in facts), source])).hexdigest()[:32]


def _cpu() -> str:
    """Return the model and the instruction sets of the first CPU."""
    try:
        with Path("/proc/cpuinfo").open("rb", buffering=0) as file:
            first = file.read(16_384).decode(errors="replace").partition("\n\n")[0]  # a block for each CPU follows
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", "") if sys.platform == "win32" else _brand()
    pairs = (line.partition(":") for line in first.splitlines())
    return "\n".join(f"{name.strip()}:{value.strip()}" for name, _, value in pairs if name.strip() in CPU_FIELDS)


def _brand() -> str:
    """Return the name of the CPU as macOS reports it, or an empty text."""
    import ctypes

    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    try:
        ctypes.CDLL(None).sysctlbyname(b"machdep.cpu.brand_string", text, ctypes.byref(size), None, 0)
    except (AttributeError, OSError):
        return ""
    return text.value.decode(errors="replace")


def distrust(path: Path) -> str | None:
    """Return the reason why code in a folder or file must not be run, or None if only this user can have written it."""
    if not hasattr(os, "getuid"):  # on Windows, other users cannot write to a user's folders
        return None
    status = path.stat()
    if status.st_uid != os.getuid():
        return "belongs to another user"
    return "can be written by other users" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def find_library(folder: Path, key: str) -> Path | None:
    """Return the library with this key; None if it is missing, damaged, or owned by another user.

    Its content must have the checksum in its name: loading a truncated library can crash the process.
    """
    return next((path for path in sorted(folder.glob(f"{key}-*.so")) if _is_intact(path)), None)


def _is_intact(path: Path) -> bool:
    try:
        reason = distrust(path) or ("" if path.stem.rpartition("-")[2] == _checksum(path) else "is damaged")
    except FileNotFoundError:  # another process has deleted it just now
        return False
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    if reason:
        log.warning("ignoring %s, which %s; pellucid.build_native() replaces it.", path, reason)
    return not reason


def _checksum(path: Path) -> str:
    return sha256(read_regular(path, LARGEST_BYTES)).hexdigest()[:32]


def add_library(folder: Path, key: str, write: Callable[[Path], None]) -> Path:
    """Let `write` create and check a library at a temporary path in the folder, and give it its final name."""
    temporary = folder / f".pellucid-{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch(mode=0o600)  # an unwritable folder is told before the compiler runs
        write(temporary)
        temporary.chmod(0o700)
        final = folder / f"{key}-{_checksum(temporary)}.so"
        temporary.replace(final)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _tidy(folder, key, final)
    return final


def _tidy(folder: Path, key: str, newest: Path) -> None:
    """Remove other libraries with this key, all but the newest ones with other keys, and abandoned temporary files."""
    ages: list[tuple[float, Path]] = []
    for path in (*folder.glob("*.so"), *folder.glob(".pellucid-*.tmp")):
        with suppress(OSError):
            ages.append((time.time() - path.lstat().st_mtime, path))
    others = [path for _, path in sorted(ages) if path.suffix == ".so" and not path.name.startswith(f"{key}-")]
    same = [path for _, path in ages if path.name.startswith(f"{key}-") and path != newest]
    stale = [path for age, path in ages if path.suffix == ".tmp" and age > STALE_SECONDS]
    for path in (*others[KEPT - 1 :], *same, *stale):
        with suppress(OSError):
            path.unlink()
