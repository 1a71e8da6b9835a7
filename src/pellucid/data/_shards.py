"""Files that belong together: those of a folder or a pattern, and the splits in their names."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from pellucid.core.errors import DataError

__all__ = ["by_part", "expand", "part_of"]

PART_NAMES = {"train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation"}
PART_NAMES |= {"val": "validation", "dev": "validation", "testing": "test"}
MOST_FILES = 10_000_000
"""Largest number of files in a pattern; more are taken for a typo."""


def part_of(path: Path) -> str:
    """Return the part that a path names, such as "train" for train-00000-of-00002.parquet; "" if it names none."""
    for name in (path.name.lower(), *(parent.name.lower() for parent in path.parents)):
        words = "".join(letter if letter.isalpha() else " " for letter in name).split()
        part = next((PART_NAMES[word] for word in words if word in PART_NAMES), None)
        if part is not None:
            return part
    return ""


def by_part(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Return the files of each split, in their order; raises `DataError` if only some of them name one."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(part_of(file.relative_to(root)), []).append(file)
    if "" in parts and len(parts) > 1:
        raise DataError(
            f"in {root}, the file {parts[''][0].name} does not name a split, such as train or test, but others do; "
            "name the split in each file name, or pass a single file."
        )
    return parts


def expand(pattern: str, suffix: str) -> tuple[Path, list[Path]]:
    """Return the files that a pattern matches, and the folder that contains them all.

    A pattern is a file, a folder (all files below it), a path with `*`, or one with braces: `{000..009}` and `{a,b}`.
    Files are sorted, except those of braces, which keep their order.

    Raises `DataError` for files that do not exist.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        return path, _found(path, f"**/*{suffix}", f"the folder {path} has no {suffix} files.")
    if path.is_file():
        return path.parent, [path]
    files: list[Path] = []
    for each in _braces(str(path)):
        if any(mark in each for mark in "*["):
            files += _globbed(Path(each), suffix)
        else:
            files.append(Path(each))
        if len(files) > MOST_FILES:
            raise DataError(f"{pattern} matches more than {MOST_FILES:,} files; check the numbers in braces.")
    missing = [file for file in files if not file.is_file()]
    if missing:
        of = f" ({len(missing):,} of {len(files):,} are missing)" if len(files) > 1 else ""
        raise DataError(f"there is no file {missing[0]}{of}; check the path.")
    if len(set(files)) < len(files):
        ordered = sorted(files)
        twice = next(one for one, other in pairwise(ordered) if one == other)
        raise DataError(f"{pattern} names {twice.name} twice; name each file once.")
    return Path(os.path.commonpath([file.parent for file in files])), files


def _globbed(path: Path, suffix: str) -> list[Path]:
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if any(mark in part for mark in "*["))
    root = Path(*parts[:first])
    return _found(root, str(Path(*parts[first:])), f"no {suffix} file matches {path}.", suffix)


def _found(root: Path, pattern: str, message: str, suffix: str = "") -> list[Path]:
    """Return the visible files that match below a folder, sorted part by part."""
    files = [
        file
        for file in root.glob(pattern)
        if not any(part.startswith(".") for part in file.relative_to(root).parts)
        and file.name.lower().endswith(suffix)
        and file.is_file()
    ]
    if not files:
        raise DataError(message)
    return sorted(files, key=lambda file: file.relative_to(root).parts)


def _braces(pattern: str) -> Iterator[str]:
    """Expand braces as a shell does, from left to right.

    >>> list(_braces("{train,test}-{08..10}.tar"))[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, names = match.groups()
    if names is None:
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        step = 1 if int(first) <= int(last) else -1
        choices: Iterator[str] = (f"{one:0{width}}" for one in range(int(first), int(last) + step, step))
    else:
        choices = iter(names.split(","))
    for choice in choices:
        for rest in _braces(pattern[match.end() :]):
            yield pattern[: match.start()] + choice + rest
