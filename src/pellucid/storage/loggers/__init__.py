"""Experiment trackers that receive the scalars, figures and report of a run, in addition to TensorBoard.

Each tracker runs in a separate process: its threads, its global state and a slow server never affect the training.
Unless the user has configured the library through its own environment variables, nothing leaves the save folder.

- `_logger`: `Logger`, the base class of adapters; `trackio`, `mlflow`, `wandb`: one adapter each
- `_names`: checks the names given to `--log-to` or `log_to=`
- `_logs`: `Logs`, the TensorBoard log that also passes everything on to the trackers
- `_sender`, `_receiver`: the two ends of the channel from a run to the process of a tracker
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.storage.loggers._logger import LoggedRun, Logger
    from pellucid.storage.loggers._logs import Logs, open_logs
    from pellucid.storage.loggers._names import check_loggers

__all__ = ["LOGGERS", "LoggedRun", "Logger", "Logs", "check_loggers", "open_logs"]

LOGGERS: "Registry[type[Logger]]" = Registry("logger", "pellucid.storage.loggers")
"""All experiment trackers by name."""

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LoggedRun": "._logger",
        "Logger": "._logger",
        "Logs": "._logs",
        "open_logs": "._logs",
        "check_loggers": "._names",
    },
)
