"""The native Jacobian kernel in a run: used by all of its processes or by none, and built while the network trains."""

import mmap
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait

from rich.text import Text

from pellucid.core.errors import BuildError
from pellucid.core.terminal import console, print_line, silence
from pellucid.hooks import Hook
from pellucid.jacobians._native.build import compiled, is_off, library
from pellucid.jacobians._native.compiler import find_compiler
from pellucid.jacobians._native.decision import decided
from pellucid.run.hook_runner import is_shown
from pellucid.storage.store import Store

__all__ = ["Kernel", "repays"]

REPAID_DERIVATIVES = 50_000_000
"""Number of derivatives in a run's Jacobians from which it builds the kernel. A count rather than a time, so that equal
runs decide alike; the Jacobians of 10,000 MNIST images have 78 million."""
DONE = "done"
"""Outcome of a build without an error."""
MESSAGE_BYTES = 4096
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_STOP = 5.0
NICENESS = 5
"""Niceness of the compiler: on two cores, the training and hooks that do not wait for it come first."""


def repays(hooks: Iterable[Hook], epochs: int, test_shape: tuple[int, ...], classes: int) -> bool:
    """Return True if the hooks of a run compute so many derivatives that building the kernel pays off.

    `test_shape` is (image, channel, height, width).
    """
    times = {"epoch": sum(is_shown(epoch, epochs) for epoch in range(epochs + 1)), "end": 1}
    total = sum(times[hook.when] * hook.derivatives(test_shape, classes) for hook in hooks)
    return total >= REPAID_DERIVATIVES


class Kernel:
    """The decision of a run for the native kernel or the generic algorithms, and the build of the kernel.

    Decided by the part of the run that is resumed, or by the cache. Otherwise, the decision is open while the kernel is
    being built in a child process. The first process that needs a Jacobian waits for the build to finish; usually, that
    is a process that runs hooks next to the training. Where a fork is unsafe, the first Jacobian builds the kernel.
    """

    def __init__(self, store: Store, recorded: str | None, *, on_cpu: bool = True, builds: bool = False) -> None:
        self._store, self._recorded = store, recorded
        self._on_cpu, self._builds = on_cpu, builds
        self._stack = ExitStack()
        self._build: _Build | None = None
        self._is_open = self._is_native = self._is_recorded = self._was_begun = False
        self._reason = ""
        """Why the kernel is not available."""

    def __enter__(self) -> "Kernel":
        self._decide()
        self._stack.enter_context(decided(self.is_native))
        self.record()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the decision to each job again, and end a build that nobody waits for."""
        self._stack.close()

    def _decide(self) -> None:
        if self._recorded == "generic":
            return
        if is_off():
            self._reason = "PELLUCID_NATIVE switches it off."
        elif not self._on_cpu:
            self._reason = "the model is not on a CPU."
        elif library() is not None:
            self._is_native = True
        elif self._builds or self._recorded == "native":
            self._begin()

    def _begin(self) -> None:
        """Begin to build, if there is a compiler."""
        try:
            self._is_open = find_compiler() is not None
            self._reason = "there is no C++ compiler."
        except BuildError as error:  # the environment variable CXX is wrong
            self._was_begun, self._reason = True, str(error)
        if self._is_open:
            self._was_begun = True
            print_line("Compiling the native Jacobian kernel, once for this machine.")
            self._build = self._stack.enter_context(_Build()) if _can_fork() else None

    def is_native(self) -> bool:
        """Return True for the native kernel, False for the generic algorithms; waits for a build."""
        if self._is_open:
            self._reason = _build_here() if self._build is None else self._build.wait()
            self._is_native, self._is_open = not self._reason, False
        return self._is_native

    def record(self) -> None:
        """Write the decision to run.json once it is known; a resumed run follows it.

        Called before any result of a hook is written, so that no Jacobian is on disk without it.
        """
        if self._is_open and self._build is not None and self._build.has_ended():
            self.is_native()
        if self._is_open or self._is_recorded:
            return
        self._is_recorded = True
        if not self._is_native:
            self._print_reason()
        record, kind = self._store.run(), "native" if self._is_native else "generic"
        if record.get("jacobian_kernel") != kind:
            self._store.write_run(record | {"jacobian_kernel": kind})

    def _print_reason(self) -> None:
        """Print why the kernel is not used, if it was expected."""
        if self._recorded == "native":
            text = (
                "Notice: the earlier part of this run used the native Jacobian kernel, which is not available now: "
                f"{self._reason} The last bits of the remaining Jacobians may differ from those of an uninterrupted "
                "run."
            )
            console().print(Text(text, style="bold yellow"))
        elif self._was_begun:
            print_line(f"Continuing without the native Jacobian kernel: {self._reason}")


def _can_fork() -> bool:
    return sys.platform == "linux" and threading.active_count() == 1


def _build_here() -> str:
    """Build the kernel in this process, and return the reason if that fails."""
    try:
        compiled()
    except BuildError as error:
        return str(error) or type(error).__name__
    return ""


class _Build:
    """A build in a child process, whose end and outcome all processes see that are forked after it."""

    def __enter__(self) -> "_Build":
        # memory that forked processes share, unlike all other memory
        self._outcome = mmap.mmap(-1, MESSAGE_BYTES)
        # only the child holds the writing end, so the reading end reports its end, however it comes
        self._end, writing = os.pipe()
        self._process = get_context("fork").Process(target=_build, args=(self._outcome, os.getpid()), daemon=True)
        # until the child has its own handler; the inherited one only notes the signal
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with warnings.catch_warnings():
                # Python warns about every thread, even those that idle in the pools of torch and numpy
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            os.close(writing)
        return self

    def __exit__(self, *_: object) -> None:
        """End the build if it has not ended yet."""
        self._process.terminate()  # so that it can end the compiler
        self._process.join(SECONDS_TO_STOP)
        self._process.kill()
        self._process.join()
        os.close(self._end)

    def has_ended(self) -> bool:
        """Return True once the child process is gone."""
        return bool(wait([self._end], 0))

    def wait(self) -> str:
        """Wait for the end of the build, and return the reason if it failed."""
        wait([self._end])
        outcome = bytes(self._outcome[:]).rstrip(b"\0").decode(errors="replace")
        return "the process that compiled it was killed." if not outcome else outcome.removeprefix(DONE)


def _build(outcome: mmap.mmap, parent: int) -> None:
    """Build the kernel and leave the outcome; runs in a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what Ctrl-C means
    # as an exception, so that the compiler ends, too, and its temporary file is removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    silence()
    with suppress(OSError):
        os.nice(NICENESS)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    message = (_build_here() or DONE).encode()[:MESSAGE_BYTES]
    outcome[: len(message)] = message


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, which a killed parent cannot tell."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    with suppress(OSError):
        os.kill(os.getpid(), signal.SIGTERM)
