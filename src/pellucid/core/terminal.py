"""Terminal output: one shared console, and progress as a bar or as plain lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from pellucid.core.text import printable

__all__ = ["Tracker", "console", "print_error", "print_line", "silence", "track"]

SECONDS_BETWEEN_PLAIN_LINES = 15.0
SECONDS_BETWEEN_BARS = 0.1

_shown: list[Progress] = []
"""Bars on the screen."""


@cache
def console() -> Console:
    """Return the shared console for all output (standard output). On a pipe, lines are never wrapped."""
    # without highlighting, which colors the digits of numbers and parts of paths
    screen = Console(highlight=False, emoji=False)
    # wrapped lines would break tools that read the output
    return screen if screen.is_terminal else Console(soft_wrap=True, highlight=False, emoji=False)


def print_line(text: str, style: str = "") -> None:
    """Print text verbatim, without rich's markup or line breaks, so that a path in it can be clicked and copied.

    Characters that the output's encoding lacks are escaped, since a message must not end somebody's training.
    """
    encoding = getattr(console().file, "encoding", None) or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    console().print(Text(shown, style=style), soft_wrap=True)


def silence() -> None:
    """Suppress all further output, for processes of a distributed run other than the first."""
    console().quiet = True


def print_error(message: str) -> None:
    """Print to standard error, without rich's markup or wrapping."""
    print(printable(f"pellucid: {message}"), file=sys.stderr)  # noqa: T201


class Tracker:
    """Progress of one task; created by `track`."""

    def __init__(self, label: str, total: int | None, bar: Progress | None, task: TaskID | None) -> None:
        self._label, self._total, self._bar, self._task = label, total, bar, task
        self._last_line, self._last_bar = monotonic(), 0.0

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of `total` is finished; `note` (a loss, an address) is printed after the progress."""
        if self._bar is not None and self._task is not None:
            is_due = monotonic() - self._last_bar >= SECONDS_BETWEEN_BARS
            self._bar.update(self._task, completed=done, note=note, refresh=is_due)
            self._last_bar = monotonic() if is_due else self._last_bar
        elif monotonic() - self._last_line >= SECONDS_BETWEEN_PLAIN_LINES:
            self._last_line = monotonic()
            share = f"{done / self._total:4.0%}" if self._total else f"{done:,}"
            console().print(f"  {self._label}: {share}  {note}".rstrip(), markup=False)


@contextmanager
def track(label: str, total: int | None = None) -> Iterator[Tracker]:
    """Show progress while the body runs: a transient bar on a terminal, otherwise a plain line every 15 s.

    >>> with track("counting", total=3) as tracker:
    ...     for number in range(3):
    ...         tracker.update(number + 1)
    """
    screen = console()
    if not screen.is_terminal or screen.quiet:
        yield Tracker(label, total, None, None)
        return
    if _shown:  # a task within another: a second line below its bar
        task = _shown[-1].add_task(label, total=total, note="")
        yield Tracker(label, total, _shown[-1], task)
        _shown[-1].remove_task(task)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # Drawn by `update`, not by rich's thread: a process forked while that thread held a lock would wait for it forever.
    with Progress(*columns, console=screen, transient=True, auto_refresh=False) as bar:
        _shown.append(bar)
        try:
            # the last column requires the field `note` from the start
            yield Tracker(label, total, bar, bar.add_task(label, total=total, note=""))
        finally:
            _shown.remove(bar)
