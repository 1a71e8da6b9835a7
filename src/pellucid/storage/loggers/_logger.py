"""The interface of an adapter for an experiment tracker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LoggedRun", "Logger"]

PROJECT = "pellucid"
"""Default name of the project or experiment; the library's environment variable overrides it."""


@dataclass(frozen=True)
class LoggedRun:
    """Metadata of a run for a tracker."""

    folder: Path
    """Folder for local files of the tracker, below the save folder."""
    title: str
    """Display name of the run: data set, model and start time."""
    settings: Mapping[str, Any]
    """Flags, data set and model; the values are strings, numbers, booleans or None."""
    earlier: str | None
    """Value of `Logger.identity` in the run that is resumed; None for a new run."""


class Logger(ABC):
    """Adapter of one tracker's public interface. It lives in a separate process and may raise any exception.

    The constructor imports the library, and starts a run or continues an earlier one.
    """

    @abstractmethod
    def __init__(self, run: LoggedRun) -> None: ...

    @property
    @abstractmethod
    def identity(self) -> str:
        """Identifier by which a resumed run finds this one."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a value to each curve."""

    @abstractmethod
    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        """Add a figure, encoded as PNG."""

    @abstractmethod
    def report(self, path: Path) -> None:
        """Add the report, an HTML file, as an artifact."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End the run: `status` is "finished", "interrupted" or "failed". Returns when everything is stored."""
