"""The image files below a folder: listed once, in an order that is the same on every machine, and held compactly."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from pellucid.core.errors import DataError

__all__ = ["Paths", "check_listable", "list_files"]


class Paths(Sequence[Path]):
    """Paths of files below one folder.

    Each takes the length of the file's name and five bytes of memory. `Path` objects are created on demand, because a
    million of them take 200 MB.
    """

    def __init__(self, root: Path, runs: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Hold the files of each run, (folder relative to `root`, names of files in it), in that order."""
        self.root = root
        runs = [(folder, names) for folder, names in runs if names]
        self._folders = [folder for folder, _ in runs]
        counts = [len(names) for _, names in runs]
        self._starts = np.cumsum([0, *counts])
        # names cannot contain NUL, so it can mark their ends
        self._names = b"".join(os.fsencode("\0".join(names)) + b"\0" for _, names in runs)
        ends = np.flatnonzero(np.frombuffer(self._names, np.uint8) == 0)
        self._ends = ends.astype(np.uint32 if len(self._names) < 2**32 else np.uint64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.root.joinpath(*self._parts(index))

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def key(self, index: int) -> str:
        r"""Return the path relative to the root, with `/`; bytes that are not UTF-8 are written as `\xe9`."""
        # the same encoding on every machine, whatever that of its file names
        return (
            "/".join(filter(None, self._parts(index)))
            .encode("utf-8", "surrogateescape")
            .decode("utf-8", "backslashreplace")
        )

    def contents(self, most_sizes: int = 10_000) -> Iterator[bytes]:
        """Yield the names of all files, and the sizes of at most `most_sizes` of them, spread evenly."""
        for folder, start in zip(self._folders, self._starts.tolist(), strict=False):
            yield f"{folder.replace(os.sep, '/')}\0{start}".encode("utf-8", "surrogateescape")
        yield self._names
        chosen = np.linspace(0, len(self) - 1, min(len(self), most_sizes)).round().astype(int).tolist()
        yield np.array([_size(self[index]) for index in chosen], "<i8").tobytes()

    def _parts(self, index: int) -> tuple[str, str]:
        """Return the folder and the name of a file."""
        index = range(len(self))[index]  # handles negative indices, and raises IndexError
        start = int(self._ends[index - 1]) + 1 if index else 0
        folder = self._folders[int(np.searchsorted(self._starts, index, side="right")) - 1]
        return folder, os.fsdecode(self._names[start : int(self._ends[index])])


def _size(path: Path) -> int:
    """Return the size of a file; -1 for one that is gone, such as the target of a link."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def list_files(root: Path, folder: str, suffixes: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield runs (folder, names) of the files below `root / folder`, sorted like their paths part by part.

    Files are chosen by their suffixes alone: one that cannot be opened is found when it is read. Names that start with
    a dot are left out, and links to folders are not followed.

    Raises `DataError` for a folder that cannot be listed.
    """
    files, folders = _scan(root / folder, suffixes)
    if not folders:
        files.sort()
        yield folder, files
        return
    waiting: list[str] = []
    inner = set(folders)
    # code points, so that the order does not depend on the locale or the file system
    for name in sorted([*files, *folders]):
        if name not in inner:
            waiting.append(name)
            continue
        yield folder, waiting
        waiting = []
        yield from list_files(root, os.path.join(folder, name), suffixes)  # noqa: PTH118
    yield folder, waiting


def _scan(path: Path, suffixes: set[str]) -> tuple[list[str], list[str]]:
    """Return the names of the files with one of the suffixes and of the folders in a folder, unsorted."""
    check_listable(path)
    files, folders = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                # no system call is needed: the listing tells files from folders
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif os.path.splitext(name)[1].lower() in suffixes and not entry.is_dir():  # noqa: PTH122
                    files.append(name)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be listed: {error.strerror or error}.") from error
    return files, folders


def check_listable(path: Path) -> None:
    """Raise `DataError` for a folder whose permissions forbid to list it."""
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"no permission to list the folder {path}; allow it (chmod u+rx) or choose another folder.")
