"""Receiving end: a tracker's process, which reads the messages of a run and passes them to the adapter."""

import base64
import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pellucid.storage.atomic import write_bytes
from pellucid.storage.loggers import LOGGERS
from pellucid.storage.loggers._logger import LoggedRun, Logger

__all__ = ["main", "receive"]

SECONDS_BETWEEN_LOOKS = 0.1
MOST_FAILURES = 3
"""Maximum number of failures in a row: a single figure may be refused, but several mean that the server is gone."""


def main() -> None:
    """Log what a run sends until it closes the log or ends."""
    _, name, save, messages = sys.argv[1:]
    warnings.simplefilter("ignore")  # warnings of the tracker are not the user's; PYTHONWARNINGS=error must not stop it
    is_alone = threading.Event()
    threading.Thread(target=_wait_for_end, args=(is_alone,), daemon=True).start()
    path = Path(messages)
    with path.open(encoding="utf-8") as file:
        receive(name, Path(save), read_messages(file, is_alone.is_set))
    path.unlink(missing_ok=True)


def _wait_for_end(is_alone: threading.Event) -> None:
    # Nothing is ever written, so this returns when the run's process has ended. `sys.stdin.read` would hold a lock that
    # Python needs to exit.
    os.read(sys.stdin.fileno(), 1)
    is_alone.set()


def read_messages(file: IO[str], is_alone: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield the messages in a file that grows; the last one closes the log, also if the sender was killed."""
    line = ""
    while True:
        was_alone = is_alone()  # checked before reading, so that nothing written until then is missed
        line += file.readline()
        if line.endswith("\n"):
            yield json.loads(line)
            line = ""
        elif was_alone:
            yield {"kind": "close", "status": "failed"}
            return
        else:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def receive(name: str, save: Path, messages: Iterator[dict[str, Any]]) -> None:
    """Pass messages to the adapter `name`; the first failure is written to `logs/NAME/failure.txt`."""
    folder, failures = save / "logs" / name, 0
    logger: Logger | None = None
    for message in messages:
        try:
            if logger is None:
                logger = _open(name, folder, message)
            else:
                _pass_on(logger, message, save)
            failures = 0
        except Exception as error:  # noqa: BLE001  (the tracker is third-party code)
            failures += 1
            _note(folder, message["kind"], error)
        if message["kind"] == "close" or logger is None or failures == MOST_FAILURES:
            return


def _open(name: str, folder: Path, message: dict[str, Any]) -> Logger:
    identity = folder / "identity.txt"
    earlier = identity.read_text(encoding="utf-8") if identity.is_file() else None
    logger = LOGGERS[name](LoggedRun(folder, message["title"], message["settings"], earlier))
    write_bytes(identity, logger.identity.encode())
    return logger


def _pass_on(logger: Logger, message: dict[str, Any], save: Path) -> None:
    match message["kind"]:
        case "scalars":
            logger.scalars(message["values"], message["epoch"])
        case "picture":
            logger.picture(message["tag"], base64.b64decode(message["png"]), message["epoch"])
        case "close":
            try:
                if (save / "report.html").is_file():
                    logger.report(save / "report.html")
            finally:  # end the run even if its report fails
                logger.close(message["status"])


def _note(folder: Path, kind: str, error: Exception) -> None:
    path = folder / "failure.txt"
    if not path.exists():
        summary = f"{kind}: {type(error).__name__}: {' '.join(str(error).split())}"
        log = "".join(traceback.format_exception(error))
        write_bytes(path, f"{summary}\n\n{log}".encode(errors="replace"))
