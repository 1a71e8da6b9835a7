"""Settings from files, and as arguments of the command line."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pellucid.config._run import DataConfig, HookConfig, ModelConfig, TrainingConfig
from pellucid.core.errors import ConfigError, UnknownName

__all__ = ["FLAGS", "ONE_TIME_FLAGS", "as_arguments", "read_config"]


FLAGS = (*(f.name for group in (DataConfig, TrainingConfig, ModelConfig, HookConfig) for f in fields(group)), "save")
"""Settings that a config file may contain."""


ONE_TIME_FLAGS = ("resume", "serial", "trust", "open", "config")
"""Settings that a run.json records too, but that apply only to the command that wrote it."""


def read_config(path: Path, description: str | None = None) -> dict[str, Any]:
    """Read the settings in a TOML file or in the run.json of an earlier run; keys have underscores.

    `description` names the file in error messages. Raises `ConfigError` if the file cannot be read and `UnknownName`
    for a setting that does not exist.
    """
    description = description or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else {"config": tomllib.loads(text)}
    except OSError as error:
        raise ConfigError(f"{description} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise ConfigError(f"{description} is neither valid TOML nor a run.json: {error}.") from error
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or (path.suffix == ".json" and not settings):
        raise ConfigError(f"{description} contains no settings; pass a TOML file or the run.json of an earlier run.")
    settings = {key.replace("-", "_"): value for key, value in settings.items()}
    # A run.json records these as well, but they apply only to the command that wrote it.
    settings = {
        key: value for key, value in settings.items() if key not in ("resume", "serial", "trust", "open", "config")
    }
    for key in settings:
        if key not in FLAGS:
            raise UnknownName(f"setting (in {path})", key, FLAGS)
    return settings


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as command-line arguments; a list becomes NAME,NAME, except that each mirror gets its own flag.

    >>> as_arguments({"batch_size": 64, "mirror": ["a", "b"], "classes": [3, 8], "epochs": None})
    ['--batch-size=64', '--mirror=a', '--mirror=b', '--classes=3,8']
    """
    arguments = []
    for name, entry in settings.items():
        values = entry if isinstance(entry, list | tuple) else [] if entry is None else [entry]
        if isinstance(entry, list | tuple) and name != "mirror":
            values = [",".join(map(str, entry))]
        arguments += [f"--{name.replace('_', '-')}={value}" for value in values]
    return arguments
