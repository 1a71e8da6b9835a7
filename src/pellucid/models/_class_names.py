"""Read class names from a file."""

import json
from pathlib import Path
from typing import Any

from pellucid.core.errors import ConfigError
from pellucid.core.text import check_text

__all__ = ["check_class_count", "read_class_names"]


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read class names, in the order of the logits, from a text file or a JSON file.

    A text file has one name per line. A JSON file (`.json`) has a list of names, or a dict from index to name; the
    `id2label` in a config of transformers is found too.

    Raises `ConfigError` if the file cannot be read, or if a name or an index is missing.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "names.json")
    ...     _ = file.write_text('{"0": "cat", "1": "dog"}')
    ...     read_class_names(file)
    ('cat', 'dog')
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else _lines(text)
    except OSError as error:
        raise ConfigError(f"--class-names {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # also for bytes that are not UTF-8
        raise ConfigError(f"--class-names {path} is not valid {_kind(path)}: {error}.") from error
    names = _names(content, path)
    if not names:
        raise ConfigError(f"--class-names {path} is empty; expected one name per line, or a JSON list.")
    for name in names:
        check_text(name, f"a class name in {path}")
    return names


def _kind(path: Path) -> str:
    return "JSON" if path.suffix.lower() == ".json" else "UTF-8"


def _lines(text: str) -> list[str]:
    # not `splitlines`, which also splits at characters that may occur in names
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _names(content: Any, path: Path) -> tuple[str, ...]:
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, dict):
        missing = [index for index in range(len(content)) if str(index) not in content]
        if missing:
            raise ConfigError(
                f"--class-names {path} has {len(content)} entries, but none for index {missing[0]}; expected the "
                f'indices "0" to "{len(content) - 1}".'
            )
        content = [content[str(index)] for index in range(len(content))]
    if not isinstance(content, list):
        raise ConfigError(f"--class-names {path} has a {type(content).__name__}; expected a list, or a dict by index.")
    for number, name in enumerate(content):
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"--class-names {path}: entry {number} is {name!r}; expected a name.")
    return tuple(content)


def check_class_count(names: tuple[str, ...], count: int, source: str, owner: str) -> None:
    """Raise `ConfigError` unless there is one name for each of the `count` classes of `owner`.

    >>> check_class_count(("cat", "dog"), 10, "--class-names pets.txt", "the data")
    Traceback (most recent call last):
    pellucid.core.errors.ConfigError: --class-names pets.txt has 2 names, but the data has 10 classes; ...
    """
    if len(names) != count:
        raise ConfigError(
            f"{source} has {len(names):,} names, but {owner} has {count:,} classes; give one name per class, in order."
        )
