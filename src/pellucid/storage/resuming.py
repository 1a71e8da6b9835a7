"""Tell whether a run is active, and the command that resumes it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.data._spec import is_function
from pellucid.models._spec import is_function as is_model_function
from pellucid.storage.lock import is_locked

__all__ = ["actual_status", "resume_command"]


def actual_status(record: Mapping[str, Any], folder: Path) -> str:
    """Return the status of a run from its run.json, but `interrupted` for a run whose process was killed."""
    status = str(record.get("status", "unknown"))
    return "interrupted" if status == "running" and not is_locked(folder) else status


def resume_command(record: Mapping[str, Any], folder: Path) -> str:
    """Return the command that resumes the run in `folder`, with the program that started it according to its run.json.

    >>> resume_command({"command": "runner.py --epochs 9"}, Path("save"))
    'python runner.py --resume'
    >>> resume_command({"model": {"name": "nets:small"}}, Path("my runs/a"))
    "pellucid run --resume --save 'my runs/a' --trust"
    """
    script = Path(_first_word(record.get("command")))
    program = ["pellucid", "run"]
    if script.suffix == ".py":
        program = ["python", "-m", "pellucid", "run"] if script.name == "__main__.py" else ["python", str(script)]
    # "save" is the default folder
    command = [*program, "--resume", *([] if str(folder) == "save" else ["--save", str(folder)])]
    model, data = (_name(record.get(part)) for part in ("model", "dataset"))
    if is_model_function(model) or is_function(data):
        command.append("--trust")
    return shlex.join(command)


def _first_word(command: Any) -> str:
    """Return the program of a command; empty if the record is damaged."""
    try:
        return shlex.split(command)[0] if isinstance(command, str) else ""
    except (ValueError, IndexError):  # an unclosed quote, or nothing
        return ""


def _name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, dict) else ""
