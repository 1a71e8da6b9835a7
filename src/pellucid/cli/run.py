"""`pellucid run`: the settings from the command line, a config file or the run to resume."""

import tempfile
import traceback
from argparse import ArgumentParser
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import RunConfig, as_arguments, read_config
from pellucid.core.errors import ConfigError, ModelError, PellucidError
from pellucid.core.importing import check_trusted
from pellucid.core.listing import parse_names
from pellucid.core.terminal import print_error
from pellucid.data._spec import check_spec as check_dataset
from pellucid.data._spec import is_function
from pellucid.hooks import HOOKS
from pellucid.models import check_spec as check_model
from pellucid.models._spec import is_function as is_model_function
from pellucid.storage.loggers import check_loggers
from pellucid.storage.reading import read_inside

__all__ = ["parse_run", "run"]


def run(arguments: list[str]) -> int:
    """Train a network and visualize what it learns (same as `python runner.py`)"""
    config = parse_run(arguments)
    check_dataset(config.data.dataset)
    check_model(config.training.model)
    if config.show.hooks != "none":
        parse_names(config.show.hooks, HOOKS.check, {"default": (), "all": ()})
    if config.show.methods:
        parse_names(config.show.methods, check_method)
    check_loggers(config.show.log_to)
    try:
        from pellucid.run.pipeline import run as run_pipeline  # loads torch

        return run_pipeline(config)
    except PellucidError:
        raise
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich ends the process if nobody reads its output
            return 1
        # The user's code (a model, a data set) wants to end the process; its code would read as that of the run.
        raise ModelError(f"code of the model or the data set called exit({error.code}); remove that call.") from error
    except Exception as error:  # noqa: BLE001  (last resort: log the traceback of any other error)
        log = _write_traceback(config.save)
        print_error(f"unexpected {type(error).__name__}: {error}\nThe traceback is in {log}.")
        return 1


def parse_run(arguments: Sequence[str]) -> RunConfig:
    """Parse the arguments of `run`; raises `SystemExit` for `--help` and for unknown flags.

    Flags on the command line take precedence over `--config`, which takes precedence over the settings of the run to
    resume.

    >>> parse_run(["--batch-size", "64"]).training.batch_size
    64
    """
    given = list(arguments)
    # --name=value as well as --name value, with dashes or underscores
    flags = {flag.partition("=")[0][2:].replace("-", "_") for flag in given if flag.startswith("--")}
    settings = {} if {"-h", "--help"} & set(given) else _inherited_settings(given, flags)
    inherited = {name: value for name, value in settings.items() if name not in flags}
    return parse_arguments(RunConfig, "run", [*as_arguments(inherited), *given])


def _inherited_settings(given: Sequence[str], flags: Container[str]) -> dict[str, Any]:
    """Return the settings from `--config` and from the run that `--resume` continues.

    Raises `ConfigError` for a function that a run.json names, unless `--trust` or the same flag is given.
    """
    sources = ArgumentParser(add_help=False, allow_abbrev=False)
    sources.add_argument("--config", type=Path, nargs="?")
    sources.add_argument("--save", type=Path, nargs="?")
    sources.add_argument("--resume", action="store_true")
    try:
        known, _ = sources.parse_known_args([argument for argument in given if not argument.startswith("--resume=")])
    except SystemExit:
        return {}  # the full parser reports the mistake with a better message
    settings = read_config(known.config.expanduser(), f"--config {known.config}") if known.config else {}
    if known.config and known.config.suffix == ".json":  # a TOML file is written by the user, a run.json by a run
        _check_functions(settings, known.config, flags)
    if known.resume:
        save = (known.save or Path(settings.get("save", "save"))).expanduser()
        if not (save / "run.json").is_file():
            raise ConfigError(
                f"cannot resume a run in {save}: {save / 'run.json'} does not exist. Start one without --resume."
            )
        try:
            read_inside(save, "run.json")
        except OSError as error:
            raise ConfigError(f"cannot resume a run in {save}: run.json cannot be read: {error.strerror}.") from error
        saved = read_config(save / "run.json", f"the record of the run to resume, {save / 'run.json'},")
        _check_functions({name: value for name, value in saved.items() if name not in settings}, save, flags)
        settings = saved | settings | {"save": str(save)}
    return settings


def _check_functions(settings: Mapping[str, Any], place: Path, flags: Container[str]) -> None:
    model, dataset = (str(settings.get(name, "")) for name in ("model", "dataset"))
    if "model" not in flags and is_model_function(model):
        check_trusted("model", model, place, "trust" in flags)
    if "dataset" not in flags and is_function(dataset):
        check_trusted("data set", dataset, place, "trust" in flags)


def _write_traceback(save: Path) -> Path:
    """Write the current traceback to a file below `save`, or to a temporary file if that fails."""
    text = traceback.format_exc()
    try:
        folder = save / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="unexpected_", suffix=".txt", dir=folder)
    except OSError:
        handle, name = tempfile.mkstemp(prefix="pellucid_", suffix=".txt")
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123  (an open descriptor)
        file.write(text)
    return Path(name)
