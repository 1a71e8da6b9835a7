"""Restore SIGINT handling in child processes; a test run started in the background ignores the signal."""

import signal

__all__ = ["heed"]


def heed() -> None:
    """Reset SIGINT to its default; pass as `preexec_fn` to `subprocess.Popen`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
