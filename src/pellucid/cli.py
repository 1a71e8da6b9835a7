"""The `pellucid` command: reads the arguments, checks every name, and only then loads what does the work."""

import os
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.table import Table

from pellucid.attribution import check_method
from pellucid.config import EvaluateConfig, GroundTruthConfig, ReportConfig, RunConfig, as_arguments, read_config
from pellucid.core.errors import ConfigError, PellucidError, UnknownName
from pellucid.core.terminal import console
from pellucid.data._spec import check_spec as check_dataset
from pellucid.evaluation import METRICS
from pellucid.hooks import HOOKS
from pellucid.models import check_spec as check_model

__all__ = ["entry", "leave", "main"]

SECONDS_TO_TELL = 5.0
"""How long the other processes of a run wait for the first one to tell what went wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 a wrong argument, 130 interrupted."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        console().print(_overview(), markup=False)
        return 0
    try:
        if command not in COMMANDS:
            raise UnknownName("command", command, COMMANDS)
        return COMMANDS[command](rest)
    except PellucidError as error:
        if os.environ.get("RANK", "0") == "0":  # the processes of a run fail together; the first one tells
            _complain(str(error))
        else:  # torchrun ends all with the one that goes first
            time.sleep(SECONDS_TO_TELL)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 130


def entry() -> NoReturn:
    """The `pellucid` command of the shell."""
    leave(main())


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One process of several ends at once, without taking the interpreter apart: the threads of gloo may still hold
    tensors then, and abort the process when they give them back to an interpreter that is no longer there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Train a network and show what it learned (the same as `python runner.py`)"""
    config = parse_run(arguments)
    check_dataset(config.data.dataset)
    check_model(config.training.model)
    for name in () if config.show.hooks == "none" else config.show.hooks.split(","):
        if name.strip() not in ("default", "all"):
            HOOKS.check(name.strip())
    for name in config.show.methods.split(",") if config.show.methods else ():
        check_method(name.strip())
    try:
        from pellucid.pipeline import run  # loads torch

        return run(config)
    except PellucidError:
        raise
    except Exception as error:  # noqa: BLE001  (the last resort: whatever it is, its traceback is kept)
        log = _keep_traceback(config.save)
        _complain(f"unexpected {type(error).__name__}: {error}\nThe traceback is in {log}.")
        return 1


def _methods(arguments: list[str]) -> int:
    """List the explanation methods: what each answers, and what it promises"""
    if arguments:
        raise ConfigError(f"`pellucid methods` takes no arguments, got {' '.join(arguments)}.")
    from pellucid.attribution import methods  # loads torch

    table = Table()
    table.add_column("Method", no_wrap=True)
    for heading in ("Family", "What it answers", "Promises"):
        table.add_column(heading)
    for method in methods():
        promises = ", ".join(sorted(promise.replace("_", " ") for promise in method.promises))
        fit = " (after fit)" if method.needs_fit else ""
        table.add_row(method.name, method.family, method.answers + fit, promises or "–")
    console().print(table)
    return 0


def _evaluate(arguments: list[str]) -> int:
    """Measure how good the explanations of a saved run are"""
    config = tyro.cli(EvaluateConfig, prog="pellucid evaluate", args=arguments)
    _check_methods(config.methods)
    for name in config.metrics.split(",") if config.metrics != "default" else ():
        METRICS.check(name.strip())
    from pellucid.quality_command import evaluate_run  # loads torch

    return evaluate_run(config)


def _ground_truth(arguments: list[str]) -> int:
    """Train networks of which it is known where they must look, and measure explanations on them"""
    config = tyro.cli(GroundTruthConfig, prog="pellucid ground-truth", args=arguments)
    _check_methods(config.methods)
    for name in config.datasets.split(","):
        check_dataset(name.strip())
    from pellucid.quality_command import ground_truth  # loads torch

    return ground_truth(config)


def _report(arguments: list[str]) -> int:
    """Write the page of a saved run anew"""
    config = tyro.cli(ReportConfig, prog="pellucid report", args=arguments)
    from pellucid.report import write_report  # loads torch

    console().print(str(write_report(config.run)), markup=False, soft_wrap=True)
    return 0


def _check_methods(names: str) -> None:
    for name in names.split(",") if names not in ("default", "all") else ():
        check_method(name.strip())


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "methods": _methods,
    "evaluate": _evaluate,
    "ground-truth": _ground_truth,
    "report": _report,
}


def parse_run(arguments: Sequence[str]) -> RunConfig:
    """The configuration that the arguments of `run` ask for; `--help` and unknown flags leave with `SystemExit`.

    Settings from `--config` stand below those on the command line; with `--resume` those of the interrupted run do.

    >>> parse_run(["--batch-size", "64"]).training.batch_size
    64
    """
    given = list(arguments)
    settings = {} if {"-h", "--help"} & set(given) else _settings_below(given)
    flags = {flag.partition("=")[0][2:].replace("-", "_") for flag in given if flag.startswith("--")}
    below = {name: value for name, value in settings.items() if name not in flags}
    return tyro.cli(
        RunConfig, prog="pellucid run", args=[*as_arguments(below), *given], config=(tyro.conf.OmitArgPrefixes,)
    )


def _settings_below(given: Sequence[str]) -> dict[str, Any]:
    """What `--config` and the run that `--resume` continues say."""
    sources = ArgumentParser(add_help=False, allow_abbrev=False)
    sources.add_argument("--config", type=Path, nargs="?")
    sources.add_argument("--save", type=Path, nargs="?")
    sources.add_argument("--resume", action="store_true")
    try:
        known, _ = sources.parse_known_args([argument for argument in given if not argument.startswith("--resume=")])
    except SystemExit:
        return {}  # the parser of all flags says it better
    settings = read_config(known.config.expanduser(), f"--config {known.config}") if known.config else {}
    if known.resume:
        save = (known.save or Path(settings.get("save", "save"))).expanduser()
        if not (save / "run.json").is_file():
            raise ConfigError(
                f"--resume finds no run in {save}: there is no {save / 'run.json'}; start one without --resume."
            )
        saved = read_config(save / "run.json", f"the record of the run to resume, {save / 'run.json'},")
        settings = saved | settings | {"save": str(save)}
    return settings


def _overview() -> str:
    lines = [f"  {name:<14}{(function.__doc__ or '').strip()}" for name, function in COMMANDS.items()]
    return "\n".join(["usage: pellucid COMMAND [--help] …", "", *lines])


def _complain(message: str) -> None:
    """On standard error, with every character as it is."""
    print(f"pellucid: {message}", file=sys.stderr)  # noqa: T201


def _keep_traceback(save: Path) -> Path:
    """Write the current traceback below `save`, or where that fails, in a temporary file."""
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
