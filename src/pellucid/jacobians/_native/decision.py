"""One answer, for all the processes of a run, to the question of whether it uses the native kernel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Decision", "decided", "decision"]

Decision = Callable[[], bool]
"""Returns True for the native kernel and False for the generic algorithms, waiting for a build if there is one."""

_DECISION: ContextVar[Decision | None] = ContextVar("use of the native kernel", default=None)


@contextmanager
def decided(choice: Decision | None) -> Iterator[None]:
    """Let `choice` decide for all Jacobians inside, whatever their size; None leaves it to each job.

    A child process that is forked inside inherits the decision.

    >>> with decided(lambda: False):
    ...     decision()
    False
    """
    token = _DECISION.set(choice)
    try:
        yield
    finally:
        _DECISION.reset(token)


def decision() -> bool | None:
    """Return the decision of the run; None outside of one."""
    choice = _DECISION.get()
    return None if choice is None else choice()
