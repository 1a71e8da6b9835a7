"""The watcher of a training in another library, from start to end."""

import atexit
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pellucid import Watcher, watch  # this import leaves the random state unchanged
from pellucid.core.errors import ConfigError
from pellucid.integrations._metrics import renamed

__all__ = ["Training", "missing"]


def missing(library: str, error: ModuleNotFoundError) -> ConfigError:
    """Return the error for a library that is not installed."""
    return ConfigError(
        f"pellucid.integrations.{library} needs {library}: {error}. Install it with `pip install {library}` or, with "
        "all other integrations, `pip install 'pellucid[integrations]'`."
    )


_OPEN: set["Training"] = set()
"""Trainings that are watched now."""


class Training:
    """Opens a watcher when training starts, and closes it when training ends, also after an error.

    `choose` returns the part of the trained module that is explained, by default the whole; `options` are the keyword
    arguments of `pellucid.watch`.
    """

    def __init__(self, choose: Callable[[Any], nn.Module] | None, options: Mapping[str, Any]) -> None:
        if choose is not None and (isinstance(choose, nn.Module) or not callable(choose)):
            raise ConfigError(
                f"model is a {type(choose).__name__}; expected a function from the trained module to the part that is "
                "explained, such as `lambda module: module.net`."
            )
        # an unknown option raises a TypeError now rather than when training starts
        inspect.signature(watch).bind(None, None, **options)
        self._choose, self._options = choose, dict(options)
        self._folder = Path(options.get("save", "save")).expanduser().absolute()
        self._watcher: Watcher | None = None

    def start(self, module: nn.Module, data: Any, epochs: int) -> None:
        """Start watching a training that begins, or continues after `epochs` epochs."""
        for other in list(_OPEN):
            # two trainings never share a folder, so the earlier one ended without a call of `end`
            if other is self or other._folder == self._folder:
                other.end("failed")
        model = self._choose(module) if self._choose else module
        resume = None if epochs else False
        self._watcher = watch(model, data, **({"resume": resume, "start_epoch": epochs} | self._options))
        _OPEN.add(self)
        atexit.register(self.end, "interrupted")  # for libraries that do not report errors to callbacks

    def epoch(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Record an epoch, counted from 1; metrics that are not numbers, such as one per class, are left out."""
        if self._watcher is not None:
            self._watcher.epoch(number, **{name: one for name, one in renamed(metrics).items() if _is_number(one)})

    def end(self, status: str) -> None:
        """Close the watcher, if it is open: `status` is "finished", "interrupted" or "failed"."""
        watcher, self._watcher = self._watcher, None
        _OPEN.discard(self)
        if watcher is not None:
            atexit.unregister(self.end)
            watcher.close(status)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return not isinstance(value, str)
