"""Every error that pellucid raises on purpose, below one base class.

A message names what came, what was expected, and the way out. The command line prints it without a traceback and exits
with the class's `exit_code`.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "DownloadError",
    "ModelError",
    "PeerFailed",
    "PellucidError",
    "SaveError",
    "ShapeError",
    "TrainingError",
    "UnknownName",
    "UnsupportedOperation",
    "WriteError",
]


class PellucidError(Exception):
    """Base of all errors below."""

    exit_code: int = 1
    """The command's exit code when this error ends it: 2 for what the user passed in, 1 for everything else."""


class ConfigError(PellucidError):
    """An argument or a configuration that cannot work."""

    exit_code = 2


class UnknownName(ConfigError, KeyError):
    """A name that a registry, a model or a data set does not have; the message lists near matches and all names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else "."
        super().__init__(f"there is no {kind} {name!r}{hint} The names are: {', '.join(known) or '(none)'}.")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


class ShapeError(PellucidError, ValueError):
    """A tensor of the wrong shape or dtype."""

    exit_code = 2


class DataError(PellucidError):
    """A data set that is missing, damaged, or not what it must be."""

    exit_code = 2


class DownloadError(DataError):
    """No mirror delivered the file: one line per mirror, and how to go on offline."""


class ModelError(PellucidError):
    """A model that does not fit the data, or lacks what a part of pellucid needs."""

    exit_code = 2


class PeerFailed(PellucidError):
    """Another process of a distributed run has failed, with this message and exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class SaveError(PellucidError):
    """A save folder that cannot be used: taken by another run, read-only, full, or not resumable."""

    exit_code = 2


class WriteError(SaveError):
    """A file that cannot be written: the disk is full, read-only or out of reach. What stood there is whole."""

    exit_code = 1


class TrainingError(PellucidError):
    """A training that cannot go on, such as one whose loss is not finite."""


class UnsupportedOperation(PellucidError):
    """An operation in the model for which a method has no rule; the message names operation, layer and the way out."""
