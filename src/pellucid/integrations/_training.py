"""The watcher of a training in another library, from start to end."""

import atexit
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pellucid.core.errors import ConfigError
from pellucid.integrations._metrics import renamed
from pellucid.run.watcher import Watcher, watch

__all__ = ["Training", "missing"]


def missing(library: str, error: ModuleNotFoundError) -> ConfigError:
    """Return the error for a library that is not installed."""
    return ConfigError(
        f"pellucid.integrations.{library} needs {library}: {error}. Install it with `pip install {library}` or, with "
        "all other integrations, `pip install 'pellucid[integrations]'`."
    )


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
        self._watcher: Watcher | None = None

    def start(self, module: nn.Module, data: Any, epochs: int) -> None:
        """Start watching a training that begins, or continues after `epochs` epochs."""
        self.end("failed")  # an earlier training that ended without a call of `end`
        model = self._choose(module) if self._choose else module
        resume = None if epochs else False
        self._watcher = watch(model, data, **({"resume": resume, "start_epoch": epochs} | self._options))
        atexit.register(self.end, "interrupted")  # for libraries that do not report errors to callbacks

    def epoch(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Record an epoch, counted from 1."""
        if self._watcher is not None:
            self._watcher.epoch(number, **renamed(metrics))

    def end(self, status: str) -> None:
        """Close the watcher, if it is open: `status` is "finished", "interrupted" or "failed"."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            atexit.unregister(self.end)
            watcher.close(status)
