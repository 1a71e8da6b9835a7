"""Run a command in a process of its own that starts at once, as a fork of one that has imported everything."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

__all__ = ["IMPORTED", "SHORT", "Program", "Result"]

SHORT = {
    "pellucid.densities.vae.STEPS": 30,
    "pellucid.densities.gaussian_mixture.COMPONENTS": 3,
    "pellucid.hooks._priors.IMAGES_FOR_ALL_STEPS": 10**6,
    "pellucid.storage.films.STEPS": 2,
    "pellucid.run.hook_runner.SHARP": 1,
}
"""Constants that make slow computations and large pictures short enough for tests."""


IMPORTED = [
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "sklearn.manifold",
    "tensorboard.summary.writer.event_file_writer",
    "torch._dynamo",
    "torch.distributed.run",
    "pellucid.run.pipeline",
]
"""Modules that take a run most of its first seconds. Those of the tests cannot be among them."""


@dataclass(frozen=True)
class Result:
    """How a program ended; a negative exit code is the signal that killed it."""

    code: int
    out: str
    err: str


class Program:
    """A running `pellucid ARGUMENTS`, with its own standard streams, signal handlers and resource limits."""

    def __init__(
        self,
        *arguments: object,
        constants: Mapping[str, Any] | None = None,
        file_size_limit: int | None = None,
        variables: Mapping[str, str] | None = None,
        main: str = "pellucid.cli.main.main",
    ) -> None:
        """Start it.

        Parameters
        ----------
        arguments
            Its command line.
        constants
            New values of constants of the package.
        file_size_limit
            In bytes.
        variables
            More environment variables.
        main
            Full name of another function to run, which receives the command line.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self._streams = Path(mkdtemp())
        given = [str(argument) for argument in arguments]
        self._process: BaseProcess = context.Process(
            target=_run,
            args=(main, given, dict(constants or {}), file_size_limit, self._streams, os.environ | (variables or {})),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def finish(self, seconds: float = 120) -> Result:
        """Wait until it has ended."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"the program has not ended after {seconds} s")
        return Result(code, *((self._streams / name).read_text("utf-8", "replace") for name in ("out", "err")))


def _run(
    main: str,
    arguments: list[str],
    constants: dict[str, Any],
    file_size_limit: int | None,
    streams: Path,
    variables: dict[str, str],
) -> None:
    """Be the program."""
    import resource

    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(streams / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run started in the background ignores it
    if file_size_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        setattr(import_module(module), name, value)
    from pellucid.cli.main import leave

    module, _, name = main.rpartition(".")
    leave(getattr(import_module(module), name)(arguments) or 0)
