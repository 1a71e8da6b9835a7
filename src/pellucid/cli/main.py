"""The `pellucid` command: parse the arguments, check every name and only then import torch."""

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

SECONDS_TO_REPORT = 5.0
"""Grace period in which the first process of a distributed run can print its error before the others exit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 invalid argument, 130 interrupted."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        console().print(_overview(), markup=False)
        return 0
    try:
        if command not in COMMANDS:
            raise UnknownName("command", command, COMMANDS)
        return COMMANDS[command](rest)
    except PellucidError as error:
        if os.environ.get("RANK", "0") == "0":  # all processes fail with the same error; only the first prints it
            _print_error(str(error))
        else:  # torchrun kills every process as soon as one exits, so let the first one print its error
            time.sleep(SECONDS_TO_REPORT)
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted.")
        return 130


def entry() -> NoReturn:
    """Console-script entry point."""
    leave(main())


def leave(code: int) -> NoReturn:
    """Exit the process with an exit code.

    In a distributed run, skip interpreter shutdown: gloo's threads may still hold tensors, and releasing them after
    the interpreter is gone aborts the process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Train a network and visualize what it learns (same as `python runner.py`)"""
    config = parse_run(arguments)
    check_dataset(config.data.dataset)
    check_model(config.training.model)
    for name in () if config.show.hooks == "none" else config.show.hooks.split(","):
        if name.strip() not in ("default", "all"):
            HOOKS.check(name.strip())
    for name in config.show.methods.split(",") if config.show.methods else ():
        check_method(name.strip())
    try:
        from pellucid.run.pipeline import run  # loads torch

        return run(config)
    except PellucidError:
        raise
    except Exception as error:  # noqa: BLE001  (last resort: log the traceback of any other error)
        log = _write_traceback(config.save)
        _print_error(f"unexpected {type(error).__name__}: {error}\nThe traceback is in {log}.")
        return 1


def _methods(arguments: list[str]) -> int:
    """List attribution methods and their guarantees"""
    if arguments:
        raise ConfigError(f"`pellucid methods` takes no arguments, got {' '.join(arguments)}.")
    from pellucid.attribution import methods  # loads torch

    table = Table()
    table.add_column("Method", no_wrap=True)
    for heading in ("Family", "Question it answers", "Guarantees"):
        table.add_column(heading)
    for method in methods():
        promises = ", ".join(sorted(promise.replace("_", " ") for promise in method.promises))
        fit = " (needs fitting)" if method.needs_fit else ""
        table.add_row(method.name, method.family, method.answers + fit, promises or "–")
    console().print(table)
    return 0


def _evaluate(arguments: list[str]) -> int:
    """Evaluate the explanations of a saved run"""
    config = tyro.cli(EvaluateConfig, prog="pellucid evaluate", args=arguments)
    _check_methods(config.methods)
    for name in config.metrics.split(",") if config.metrics != "default" else ():
        METRICS.check(name.strip())
    from pellucid.run.evaluation import evaluate_run  # loads torch

    return evaluate_run(config)


def _ground_truth(arguments: list[str]) -> int:
    """Benchmark explanations on data with known ground truth"""
    config = tyro.cli(GroundTruthConfig, prog="pellucid ground-truth", args=arguments)
    _check_methods(config.methods)
    for name in config.datasets.split(","):
        check_dataset(name.strip())
    from pellucid.run.evaluation import ground_truth  # loads torch

    return ground_truth(config)


def _report(arguments: list[str]) -> int:
    """Regenerate the report of a saved run"""
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
    """Parse the arguments of `run`; raises `SystemExit` for `--help` and for unknown flags.

    Flags on the command line take precedence over `--config`, which takes precedence over the settings of the run to
    resume.

    >>> parse_run(["--batch-size", "64"]).training.batch_size
    64
    """
    given = list(arguments)
    settings = {} if {"-h", "--help"} & set(given) else _inherited_settings(given)
    flags = {flag.partition("=")[0][2:].replace("-", "_") for flag in given if flag.startswith("--")}
    inherited = {name: value for name, value in settings.items() if name not in flags}
    return tyro.cli(
        RunConfig, prog="pellucid run", args=[*as_arguments(inherited), *given], config=(tyro.conf.OmitArgPrefixes,)
    )


def _inherited_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return the settings from `--config` and from the run that `--resume` continues."""
    sources = ArgumentParser(add_help=False, allow_abbrev=False)
    sources.add_argument("--config", type=Path, nargs="?")
    sources.add_argument("--save", type=Path, nargs="?")
    sources.add_argument("--resume", action="store_true")
    try:
        known, _ = sources.parse_known_args([argument for argument in given if not argument.startswith("--resume=")])
    except SystemExit:
        return {}  # the full parser reports the mistake with a better message
    settings = read_config(known.config.expanduser(), f"--config {known.config}") if known.config else {}
    if known.resume:
        save = (known.save or Path(settings.get("save", "save"))).expanduser()
        if not (save / "run.json").is_file():
            raise ConfigError(
                f"cannot resume a run in {save}: {save / 'run.json'} does not exist. Start one without --resume."
            )
        saved = read_config(save / "run.json", f"the record of the run to resume, {save / 'run.json'},")
        settings = saved | settings | {"save": str(save)}
    return settings


def _overview() -> str:
    lines = [f"  {name:<14}{(function.__doc__ or '').strip()}" for name, function in COMMANDS.items()]
    return "\n".join(["usage: pellucid COMMAND [--help] …", "", *lines])


def _print_error(message: str) -> None:
    """Print to standard error, without rich's markup or wrapping."""
    print(f"pellucid: {message}", file=sys.stderr)  # noqa: T201


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
