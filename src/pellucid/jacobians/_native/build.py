"""The native library of this process: found in the cache, built on request, or built for a large job."""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

from pellucid.core.errors import BuildError
from pellucid.core.isolation import exclusive
from pellucid.core.options import check_argument
from pellucid.jacobians._native.cache import add_library, cache_folder, distrust, find_library, library_key
from pellucid.jacobians._native.compiler import COMPILERS, SECONDS, compile_library, compiler_flags, find_compiler
from pellucid.jacobians._native.decision import decision

__all__ = [
    "ABI",
    "REPAID_SECONDS",
    "SOURCE",
    "build_if_repaid",
    "build_native",
    "compiled",
    "is_off",
    "library",
    "library_for",
]

SOURCE = Path(__file__).with_name("kernel.cpp")

ABI = 1
"""Version of the functions that the library must have."""

REPAID_SECONDS = 20.0
"""Duration of a job, computed without the library, from which it is built automatically: three times the cost."""

log = logging.getLogger("pellucid.jacobian")


class _NoCompiler(BuildError):
    """There is no compiler, which is not a failure."""


@dataclass
class _State:
    """Libraries of this process; change it only while holding `exclusive()`."""

    has_looked: bool = False
    found: ctypes.CDLL | None = None
    """Library for all jobs: found in the cache at the first look, or built by `build_native`."""
    built: ctypes.CDLL | None = None
    """Library built automatically, for large jobs only: small ones have been computed without it before."""
    has_failed: bool = False


_state = _State()


def library_for(seconds: float) -> ctypes.CDLL | None:
    """Return the library for a job of so many seconds without it, building it if the job is large; None without one.

    Equal jobs of a process always get the same answer, as long as nobody calls `build_native` in between. Within a run,
    jobs of all sizes and of all of its processes get the same answer, see `decision`.
    """
    wanted = decision()
    if wanted is None:
        return library() or build_if_repaid(seconds)
    return library() or _library_of_run() if wanted else None


@cache
def _library_of_run() -> ctypes.CDLL:
    """Return the library that a run has built after this process first looked; only jobs of the run use it."""
    return load(compiled())


def library() -> ctypes.CDLL | None:
    """Return the library that was in the cache when this process first looked, or that `build_native` has built."""
    if is_off():
        return None
    if not _state.has_looked:
        with exclusive():
            if not _state.has_looked:
                _state.found = _look()
                _state.has_looked = True
    return _state.found


def _look() -> ctypes.CDLL | None:
    try:
        folder = cache_folder()
        path = _in_cache(folder, checked=False)
        return load(path) if path else None
    except BuildError as error:
        _state.has_failed = True  # a build would fail for the same reason
        log.warning("ignoring the native Jacobian kernel: %s", error)
        return None


def build_if_repaid(seconds: float) -> ctypes.CDLL | None:
    """Return a library built for a job of so many seconds without it, or for an earlier one; None if that is too short.

    Announces a build in one line. Failures are logged once, and never raised.
    """
    if is_off() or seconds < REPAID_SECONDS:
        return None
    with exclusive():
        if _state.built is None and not _state.has_failed:
            try:
                _state.built = load(_obtain(announced=True))
            except BuildError as error:
                _state.has_failed = True
                _log_failure(error)
    return _state.built


def _log_failure(error: BuildError) -> None:
    # a machine without a compiler is as it should be
    level = logging.INFO if isinstance(error, _NoCompiler) else logging.WARNING
    log.log(level, "continuing without the native Jacobian kernel (PELLUCID_NATIVE=0 avoids this attempt): %s", error)


def build_native(*, force: bool = False) -> Path:
    """Compile the native kernel for Jacobians, unless it is in the user's cache, and use it from now on.

    Needs a C++17 compiler: `CXX`, `c++`, `g++` or `clang++`. Takes about 6 s, once per machine; later processes find
    the library in the cache. Networks that the kernel does not support are unaffected.

    Args:
        force: compile even if the cache has the library, for example after an update of the compiler.

    Returns:
        The path of the library.

    Raises:
        BuildError: without a compiler, if it fails, if the cache folder cannot be written or is not safe, or if the
            environment variable PELLUCID_NATIVE is 0.

    >>> import pellucid
    >>> pellucid.build_native().suffix  # doctest: +SKIP
    '.so'
    """
    check_argument("build_native", "force", force, bool)
    path = _obtain(force=force)
    with exclusive():
        _state.found, _state.has_looked = load(path), True
    return path


def compiled(*, checked: bool = False) -> Path:
    """Return the path of the library, compiling it if it is not in the cache; `checked` asserts every index.

    Raises `BuildError` like `build_native`.
    """
    return _obtain(checked=checked)


@cache
def load(path: Path) -> ctypes.CDLL:
    """Load a library; raises `BuildError` if this system cannot or if its functions have another version."""
    try:
        loaded = ctypes.CDLL(str(path))
        version = loaded.pellucid_abi
    except (OSError, AttributeError) as error:
        raise BuildError(
            f"the native kernel was compiled but cannot be loaded: {error}. If its file system is mounted noexec, set "
            "PELLUCID_CACHE to another folder."
        ) from error
    version.restype = ctypes.c_int64
    if version() != ABI:
        raise BuildError(f"the native kernel has version {version()}, expected {ABI}; reinstall pellucid.")
    return loaded


def _obtain(*, checked: bool = False, force: bool = False, announced: bool = False) -> Path:
    """Return the path of the library, compiled if necessary by one process at a time."""
    if is_off():
        raise BuildError("the environment variable PELLUCID_NATIVE switches the native kernel off; unset it.")
    folder = cache_folder()
    if not force and (path := _in_cache(folder, checked=checked)):
        return path
    compiler = find_compiler()
    if compiler is None:
        raise _NoCompiler(
            f"no C++ compiler was found ({', '.join(COMPILERS)}). Install one, or set the environment variable CXX to "
            "its path. All results can be computed without it, but more slowly."
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            # another process may have built it while this one waited
            if not force and (path := _in_cache(folder, checked=checked)):
                return path
            log.log(
                logging.WARNING if announced else logging.INFO,
                "building the native Jacobian kernel with %s (once, about 6 s) …",
                compiler,
            )
            return _compile(compiler, folder, checked)
    except OSError as error:
        raise BuildError(
            f"the native kernel cannot be written to {folder}: {error.strerror or error}. Make room there or correct "
            "its permissions, or set PELLUCID_CACHE to another folder."
        ) from error


def _compile(compiler: str, folder: Path, checked: bool) -> Path:
    """Compile the library, load it once to see that this is possible, and add it to the folder."""
    source, flags = _source(), compiler_flags(checked=checked)

    def write(target: Path) -> None:
        compile_library(compiler, source, flags, target)
        load(target)

    started = perf_counter()
    path = add_library(folder, library_key(source, flags), write)
    log.info("built %s in %.1f s", path, perf_counter() - started)
    return path


def _in_cache(folder: Path, *, checked: bool) -> Path | None:
    """Return the library's path if it is in the folder; raises `BuildError` if somebody else could have put it there.

    Never starts another program, and reads only the library itself, so it takes less than 3 ms.
    """
    try:
        reason = distrust(folder)
    except OSError:  # it does not exist or cannot be read, for example in a container without a home folder
        return None
    if reason:
        raise BuildError(f"the folder {folder} {reason}. Delete it, or set PELLUCID_CACHE to another folder.")
    return find_library(folder, library_key(_source(), compiler_flags(checked=checked)))


def _source() -> bytes:
    try:
        return SOURCE.read_bytes()
    except OSError as error:
        raise BuildError(f"{SOURCE} cannot be read: {error.strerror or error}; reinstall pellucid.") from error


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let other processes that need the library wait instead of compiling it, too.

    That only saves time, since libraries get their names atomically: a file system without locks does no harm, nor
    does a process that holds the lock for too long. The operating system releases the lock of a killed process.
    """
    from filelock import FileLock, Timeout  # slow to import, and rarely needed

    lock = FileLock(folder / ".lock", is_singleton=False)
    with suppress(Timeout, OSError, NotImplementedError):
        lock.acquire(timeout=SECONDS + 10)
    try:
        yield
    finally:
        lock.release()


def is_off() -> bool:
    """Return True if the environment variable PELLUCID_NATIVE switches the kernel off."""
    return os.environ.get("PELLUCID_NATIVE", "").lower() in ("0", "false", "no", "off")
