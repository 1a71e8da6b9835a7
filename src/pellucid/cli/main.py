"""Find the command, run it and turn errors into messages and exit codes."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

from pellucid.cli.build_native import build_native
from pellucid.cli.compare import compare
from pellucid.cli.evaluate import evaluate
from pellucid.cli.explain import explain
from pellucid.cli.export import export
from pellucid.cli.ground_truth import ground_truth
from pellucid.cli.inspect import inspect
from pellucid.cli.methods import methods
from pellucid.cli.report import report
from pellucid.cli.run import run
from pellucid.cli.serve import serve
from pellucid.core.errors import PellucidError, UnknownName
from pellucid.core.terminal import console, print_error
from pellucid.core.text import check_text
from pellucid.training.interrupt import Terminated, sigterm_raises

__all__ = ["COMMANDS", "entry", "leave", "main"]

SECONDS_TO_REPORT = 5.0
"""Grace period in which the first process of a distributed run can print its error before the others exit."""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "explain": explain,
    "inspect": inspect,
    "evaluate": evaluate,
    "compare": compare,
    "ground-truth": ground_truth,
    "report": report,
    "serve": serve,
    "export": export,
    "methods": methods,
    "build-native": build_native,
}
"""The commands: functions from their arguments to the exit code, whose docstring is their line in the overview."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 invalid argument, 130 or 143 interrupted.

    130 means Ctrl-C, 143 SIGTERM.
    """
    command, *rest = given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    if command in ("-h", "--help", "help"):
        console().print(_overview(), markup=False)
        return 0
    if command in ("-V", "--version"):
        console().print(f"pellucid {version('pellucid')}", markup=False, highlight=False)
        return 0
    try:
        for argument in given:
            check_text(argument, "an argument")
        if command not in COMMANDS:
            raise UnknownName("command", command, COMMANDS)
        with sigterm_raises():
            return COMMANDS[command](rest)
    except PellucidError as error:
        if os.environ.get("RANK", "0") == "0":  # all processes fail with the same error; only the first prints it
            print_error(str(error))
        else:  # torchrun kills every process as soon as one exits, so let the first one print its error
            time.sleep(SECONDS_TO_REPORT)
        return error.exit_code
    except Terminated:
        print_error("terminated.")
        return 143
    except KeyboardInterrupt:
        print_error("interrupted.")
        return 130


def entry() -> NoReturn:
    """Console-script entry point."""
    leave(main())


def leave(code: int) -> NoReturn:
    """Exit the process with an exit code, without the shutdown of the interpreter.

    It takes more than a second to release torch's modules. In a distributed run, it can even abort the process: gloo's
    threads may still hold tensors after the interpreter is gone. Exit handlers run, except in a distributed run, where
    those of torch could wait for the other processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # nobody may read the output any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _overview() -> str:
    lines = [f"  {name:<14}{(function.__doc__ or '').strip()}" for name, function in COMMANDS.items()]
    return "\n".join(["usage: pellucid COMMAND [--help] …", "       pellucid --version", "", *lines])
