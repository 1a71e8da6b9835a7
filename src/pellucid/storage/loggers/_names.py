"""Check the names of experiment trackers. Imports neither torch nor the trackers."""

from collections.abc import Sequence
from importlib.util import find_spec

from pellucid.core.errors import ConfigError
from pellucid.core.listing import parse_names
from pellucid.storage.loggers import LOGGERS

__all__ = ["check_loggers"]


def check_loggers(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the trackers in `names`, "NAME,NAME" or a list, each once.

    Raises `UnknownName` for an unknown name and `ConfigError` for a library that is not installed.

    >>> check_loggers(None), check_loggers(())
    ((), ())
    >>> check_loggers("tensorboards")
    Traceback (most recent call last):
    pellucid.core.errors.UnknownName: there is no logger 'tensorboards'. Available: mlflow, trackio, wandb.
    """
    listed = names if isinstance(names, str) else ",".join(names or ())
    chosen = parse_names(listed, LOGGERS.check) if listed else []
    for name in chosen:
        # a spec without an origin is just a folder of that name, such as the `wandb` folder in a working directory
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"logging to {name} needs the package {name}, which is not installed. Install it with "
                f"`pip install {name}` or, with all other integrations, `pip install 'pellucid[integrations]'`."
            )
    return tuple(chosen)
