"""Ctrl-C and SIGTERM: delay them until they can do no harm, and end a command alike on both."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "Terminated", "deferred_interrupt", "sigterm_ignored", "sigterm_raises"]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers of clusters and `torchrun` send before they kill a process."""


class Interruption:
    """The signals that have arrived so far."""

    def __init__(self) -> None:
        self._received: list[int] = []

    def __call__(self) -> bool:
        """Return True if a signal has arrived."""
        return bool(self._received)

    def check(self) -> None:
        """Raise the exception of a signal that has arrived."""
        if self():
            raise self.error()

    def error(self) -> KeyboardInterrupt:
        """Return the exception to raise once it is safe to stop, also if only another process was interrupted."""
        return Terminated() if self._received[:1] == [signal.SIGTERM] else KeyboardInterrupt()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        # impatience is a second Ctrl-C; SIGTERM comes twice from careful schedulers, and after Ctrl-C from torchrun
        if number == signal.SIGINT and number in self._received:
            raise KeyboardInterrupt
        self._received.append(number)


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Record Ctrl-C or SIGTERM within the body instead of raising; a second Ctrl-C interrupts immediately.

    The body calls what it is given where it is safe to stop, and raises its `error()`. Outside the main thread, where
    Python delivers no signals, nothing is ever recorded.
    """
    interruption = Interruption()
    if not _is_main_thread():
        yield interruption
        return
    # an ignored signal stays ignored: Ctrl-C reaches child processes too, whose parent decides what it means
    deferred = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption._receive) for number in deferred}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM within the body, so that a command ends as it does on Ctrl-C.

    Does nothing outside the main thread, or if the process was started to ignore the signal.
    """
    if not _is_main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_ignored() -> Iterator[None]:
    """Ignore SIGTERM while the body records the end of a run: it comes twice from some schedulers."""
    if not _is_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
