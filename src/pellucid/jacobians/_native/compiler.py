"""The system's C++ compiler: which one, with which flags, and how it is called."""

import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pellucid.core.errors import BuildError
from pellucid.core.text import printable

__all__ = ["COMPILERS", "SECONDS", "compile_library", "compiler_flags", "find_compiler"]

COMPILERS = ("c++", "g++", "clang++")
"""Names that are tried in this order if the environment variable CXX is not set."""

FLAGS = ("-std=c++17", "-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
"""No -ffast-math: with it, NaN and infinity in the weights would turn into arbitrary numbers. With -O3, compiling takes
twice as long, and the kernel is not faster."""

CHECKED_FLAGS = ("-O1", "-DCHECKED")
"""Flags of the checked build for tests, which is only run on small networks; the last -O counts."""

NATIVE_FLAGS = {"x86_64": "-march=native", "amd64": "-march=native", "arm64": "-mcpu=native", "aarch64": "-mcpu=native"}
"""Flag for the instructions of this CPU, by architecture. On ARM, older versions of clang reject -march=native."""

SECONDS = 300.0
"""Time limit of a compilation, which takes about 6 s."""

LINES = 6
"""Number of lines of the compiler's messages that an error quotes: the last, which say what failed."""


def compiler_flags(*, checked: bool = False) -> tuple[str, ...]:
    """Return the flags for this machine; `checked` adds an assertion at every index."""
    native = NATIVE_FLAGS.get(platform.machine().lower())
    return (*FLAGS, *([native] if native else []), *(CHECKED_FLAGS if checked else []))


def find_compiler() -> str | None:
    """Return the path of the compiler: the environment variable CXX, or one of `COMPILERS`; None without a compiler.

    Raises `BuildError` if CXX is anything but the name or path of one executable file. It is never split into words
    nor passed to a shell.
    """
    wanted = os.environ.get("CXX")
    if not wanted:
        return next(filter(None, map(shutil.which, COMPILERS)), None)
    found = shutil.which(wanted)
    if found is None:
        raise BuildError(
            f"the environment variable CXX is {printable(wanted)!r}, which is not an executable file. Set it to the "
            "name or path of one C++ compiler without any arguments, or unset it."
        )
    return found


def compile_library(compiler: str, source: bytes, flags: tuple[str, ...], target: Path) -> None:
    """Compile C++ source to a shared library; raises `BuildError`, with the compiler's last messages, if that fails."""
    # from standard input, so that the compiled text is certainly the one whose checksum is in the library's name
    command = [os.path.abspath(compiler), *flags, "-x", "c++", "-", "-o", str(target)]  # noqa: PTH100
    with _held_signals() as release:  # an interruption waits until the compiler is in hand
        try:
            process = subprocess.Popen(  # noqa: S603  (a list, without a shell)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # a group of its own, since compilers start further processes
            )
        except OSError as error:
            raise BuildError(f"the C++ compiler {compiler} cannot be started: {error.strerror or error}.") from error
        with process:
            try:
                release()
                messages = process.communicate(source, timeout=SECONDS)[1]
            except subprocess.TimeoutExpired as error:
                _kill(process)
                raise BuildError(f"the C++ compiler {compiler} did not finish within {SECONDS:.0f} s.") from error
            except BaseException:  # Ctrl-C must not leave a compiler behind
                _kill(process)
                raise
    if process.returncode:
        last = messages.decode(errors="replace").strip().splitlines()[-LINES:]
        lines = "".join(f"\n  {line}" for line in last)
        raise BuildError(f"the C++ compiler {compiler} failed with exit code {process.returncode}:{lines}")


@contextmanager
def _held_signals() -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM back until the yielded function is called or the block ends.

    Blocking them would not be enough: the system then gives a signal to another thread of the process, and Python
    nevertheless runs its handler in the main thread, at once.
    """
    received: list[int] = []
    before: dict[int, Any] = {}
    # Python runs handlers in the main thread only; a handler of None is not Python's and could not be restored
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def release() -> None:
        while before:
            signal.signal(*before.popitem())
        while received:
            signal.raise_signal(received.pop())

    try:
        for number in before:
            signal.signal(number, lambda received_number, _: received.append(received_number))
        yield release
    finally:
        release()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the compiler and the processes it has started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
