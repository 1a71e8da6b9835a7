"""All errors that pellucid raises on purpose, under one base class.

A message states what was received, what was expected and how to fix it. The command line prints it without a traceback
and exits with the class's `exit_code`.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BuildError",
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
    """Base class of all pellucid errors."""

    exit_code: int = 1
    """Exit code of the command when this error ends it: 2 for invalid user input, 1 for everything else."""


class ConfigError(PellucidError):
    """An invalid argument or configuration."""

    exit_code = 2


class UnknownName(ConfigError, KeyError):
    """A name that a registry, model or data set does not contain; the message lists close matches and all names."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = list(known)
        near = get_close_matches(name, known, n=3, cutoff=0.5) if isinstance(name, str) else []
        hint = f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else "."
        super().__init__(f"there is no {kind} {name!r}{hint} Available: {', '.join(known) or '(none)'}.")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


class ShapeError(PellucidError, ValueError):
    """A tensor with the wrong shape or dtype."""

    exit_code = 2


class DataError(PellucidError):
    """A data set that is missing, damaged or invalid."""

    exit_code = 2


class DownloadError(DataError):
    """All mirrors failed; the message has one line per mirror and explains how to continue offline."""


class ModelError(PellucidError):
    """A model that does not match the data or lacks something pellucid needs."""

    exit_code = 2


class PeerFailed(PellucidError):
    """Another process of a distributed run failed; carries that process's message and exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class SaveError(PellucidError):
    """An unusable save folder: taken by another run, read-only, full or not resumable."""

    exit_code = 2


class WriteError(SaveError):
    """A file that cannot be written: the disk is full, read-only or unreachable. The previous file is intact."""

    exit_code = 1


class TrainingError(PellucidError):
    """Training cannot continue, for example because the loss is not finite."""


class UnsupportedOperation(PellucidError):
    """An operation in the model for which a method has no rule; the message names operation, layer and fix."""


class BuildError(PellucidError):
    """The native kernel cannot be built: no compiler, a compiler that fails, or an unusable cache folder."""
