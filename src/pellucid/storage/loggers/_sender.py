"""Sending end: starts the process of a tracker and writes messages for it.

Messages go through a file instead of a pipe, so that a tracker that waits for its server never blocks the training.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from pellucid.core.terminal import print_line
from pellucid.storage.atomic import TEMPORARY

__all__ = ["Sender"]

SECONDS_TO_FINISH = 60.0
"""Maximum time to wait for a tracker at the end of a run; after that, it continues in the background."""
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pellucid.storage.loggers._receiver import main; main()"
)
"""Program of a tracker's process. It uses the import path of this process, which `python -m` may not."""

_in_background: list["subprocess.Popen[bytes]"] = []
"""Trackers still running when their run ended, kept because Python warns when a process object is deleted."""


class Sender:
    """A tracker in a separate process.

    None of its methods raises an exception: a tracker that fails is reported once, and the run continues.
    """

    def __init__(self, name: str, save: Path, title: str, settings: Mapping[str, Any]) -> None:
        save = save.absolute()  # the program may change its working directory
        self.name, self._folder = name, save / "logs" / name
        self.is_new = not (self._folder / "identity.txt").is_file()
        """True if no earlier part of this run was logged."""
        self._has_reported = False
        self._messages: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "failure.txt").unlink(missing_ok=True)
            messages = self._folder / TEMPORARY.replace("*", token_hex(8))
            # line by line, because another process reads it meanwhile
            self._messages = messages.open("x", encoding="utf-8", buffering=1)
            with (self._folder / "output.txt").open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603  (our own program)
                    [sys.executable, "-c", START, json.dumps(sys.path), name, str(save), str(messages)],
                    stdin=subprocess.PIPE,  # closing it tells the tracker that this process has ended
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C ends only the run, which then ends the tracker
                )
        except OSError as error:
            self._report(f"{error}")
            self._stop_sending()
            return
        self._send(kind="open", title=title, settings=dict(settings))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a value to each curve."""
        self._send(kind="scalars", values={key: float(value) for key, value in values.items()}, epoch=epoch)

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        """Add a figure, encoded as PNG."""
        self._send(kind="picture", tag=tag, png=base64.b64encode(png).decode(), epoch=epoch)

    def close(self, status: str) -> None:
        """Send the report, if there is one, end the tracker's run and wait until everything is stored."""
        self._send(kind="close", status=status)
        self._stop_sending()
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            process.wait(SECONDS_TO_FINISH)
        except subprocess.TimeoutExpired:
            print_line(f"  {self.name} is not finished yet and continues in the background")
            _in_background.append(process)
            return
        self._check(process)

    def _send(self, **message: Any) -> None:
        if self._messages is None:
            return
        try:
            self._messages.write(json.dumps(message) + "\n")
        except (OSError, ValueError) as error:
            self._report(f"{error}")
            self._stop_sending()
        self._check(self._process)

    def _stop_sending(self) -> None:
        """Close both files; the tracker's process then ends its run if it has not already done so."""
        if self._messages is not None:
            with suppress(OSError):  # an earlier write error occurs again on closing
                self._messages.close()
            self._messages = None
        if self._process is not None and self._process.stdin:
            self._process.stdin.close()

    def _check(self, process: "subprocess.Popen[bytes] | None") -> None:
        """Report the first failure recorded by the tracker's process, or its exit code if it has ended."""
        if self._has_reported:
            return
        try:
            self._report((self._folder / "failure.txt").read_text(encoding="utf-8").partition("\n")[0], "failure.txt")
        except OSError:
            if process is not None and process.poll():
                self._report(f"its process ended with exit code {process.returncode}", "output.txt")

    def _report(self, reason: str, log: str | None = None) -> None:
        if not self._has_reported:
            self._has_reported = True
            see = f" (see {self._folder / log})" if log else ""
            print_line(f"  logging to {self.name} failed: {reason}{see}; the run continues")
