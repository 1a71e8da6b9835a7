"""Processes that heed Ctrl-C also where a test run does not, such as one that a shell started in the background."""

import signal

__all__ = ["heed"]


def heed() -> None:
    """To be called in a new process before its program starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
