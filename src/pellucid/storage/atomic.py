"""Atomic file writes."""

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import WriteError
from pellucid.core.files import TEMPORARY, replace_file
from pellucid.core.text import check_text

__all__ = ["TEMPORARY", "explain", "json_text", "record_text", "write_bytes", "write_json"]


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` atomically: write a temporary file in the same folder, then rename it. Creates missing folders.

    Raises `WriteError` on failure; the previous content of `path` is then intact.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise WriteError(explain(path, error)) from error


def explain(path: Path, error: OSError) -> str:
    """Describe why `path` cannot be written and how to fix it."""
    resume = ", then continue with --resume"
    reason = {
        errno.ENOSPC: "the disk is full; free some space" + resume,
        errno.EDQUOT: "the disk quota is exceeded; free some space" + resume,
        errno.EFBIG: "the file exceeds the size limit of this process; raise the limit" + resume,
        errno.EROFS: "the disk is read-only; choose another folder with --save",
        errno.EACCES: "permission denied; choose another folder with --save",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{path} cannot be written: {reason}. Files written earlier are intact."


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` atomically by `content`, formatted by `record_text`."""
    write_bytes(path, record_text(content).encode())


def record_text(content: Mapping[str, Any]) -> str:
    """Format `content` as readable JSON: one line per key, and one per entry of nested records."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entries = ",\n    ".join(json_text(entry) for entry in value)
            lines.append(f"  {json_text(key)}: [\n    {entries}\n  ]")
        elif isinstance(value, Mapping) and value:
            entries = ",\n    ".join(f"{json_text(name)}: {json_text(entry)}" for name, entry in value.items())
            lines.append(f"  {json_text(key)}: {{\n    {entries}\n  }}")
        else:
            lines.append(f"  {json_text(key)}: {json_text(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def json_text(content: Any) -> str:
    """Format `content` as JSON on one line; arrays become lists, NaN and infinities become null.

    >>> json_text({"share": float("nan"), "counts": np.arange(2)})
    '{"share": null, "counts": [0, 1]}'
    """
    text = json.dumps(_plain(content), allow_nan=False, ensure_ascii=False)
    check_text(text, "a text in a record")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
