"""Images in Parquet or Arrow files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.core.importing import import_optional
from pellucid.data import DATASETS, Request
from pellucid.data._arrow import count_rows, read_cells, read_column, read_schema
from pellucid.data._columns import check_options, image_column, label_column, picture_of, test_parts, train_part
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
from pellucid.data._read_all import LazySource
from pellucid.data._shards import by_part, part_of
from pellucid.data._spec import split_options

__all__ = ["SUFFIXES", "parquet"]

SUFFIXES = (".parquet", ".arrow", ".feather")
"""Suffixes of the supported files."""


@DATASETS.register("parquet")
@LazySource
def parquet(request: Request) -> OpenData:
    """Open a Parquet or Arrow file, or a folder of them, at `request.argument`.

    The images are encoded (PNG, JPEG and so on), in a column of bytes or of structs with `bytes` and `path`, as Hugging
    Face data sets store them. Labels are integers (with class names in Hugging Face's metadata, if it is there) or
    strings. Files belong to the split (train, test or validation) in their own or their folder's name. After a `?`,
    `image=COLUMN`, `label=COLUMN` and `split=NAME` resolve ambiguities.

    Raises `ConfigError` without pyarrow, and `DataError` if a file or a column is missing, ambiguous or damaged.
    """
    argument, options = split_options(request.argument)
    check_options(options)
    import_optional("pyarrow", "--dataset with Parquet or Arrow files", "parquet")
    path = Path(argument).expanduser()
    files = _files(path)
    tables = {part: Table(tuple(paths), path.name, options) for part, paths in files.items()}
    parts = list(tables)
    # public test splits may come without labels, which are then all -1
    for test in test_parts(parts, options.get("split"), path.name):
        if not tables[test].is_unlabeled:
            break
    else:
        raise DataError(f"{path.name} has no labels in its test split; choose another split: --dataset …?split=NAME.")
    train = train_part(parts, test)
    chosen = [tables[part] for part in (test, train) if part is not None]
    classes = _classes(chosen)
    root, most = path if path.is_dir() else path.parent, request.max_megapixels * 1_000_000
    title = path.resolve().stem
    sets = [
        LazyImages(
            str(path),
            title,
            table.count,
            Reader(table, root, most, classes),
            table.indices(classes),
            classes,
            is_displayed=True,
        )
        for table in chosen
    ]
    return OpenData(sets[0], sets[1] if train is not None else None)


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the files by split."""
    if path.is_file():
        return {part_of(Path(path.name)): [path]}
    if not path.is_dir():
        raise DataError(
            f"there is no file or folder {path}; --dataset expects a {', '.join(SUFFIXES)} file or a folder."
        )
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(f"the folder {path} has no {', '.join(SUFFIXES)} files.")
    return by_part(found, path)


@dataclass(frozen=True)
class Table:
    """The rows of several files with the same columns."""

    files: tuple[Path, ...]
    name: str
    options: dict[str, str]

    @cached_property
    def schema(self) -> Any:
        """The columns of the first file."""
        return read_schema(self.files[0])

    @cached_property
    def columns(self) -> tuple[str, str]:
        """Names of the image and label columns."""
        from pyarrow import types

        images, classes, others = [], [], []
        for field in self.schema:
            is_struct = types.is_struct(field.type) and "bytes" in {inner.name for inner in field.type}
            if is_struct or types.is_binary(field.type) or types.is_large_binary(field.type):
                images.append(field.name)
            elif self._names(field.name) is not None or types.is_dictionary(field.type):
                classes.append(field.name)
            elif types.is_integer(field.type) or types.is_string(field.type) or types.is_large_string(field.type):
                others.append(field.name)
        return (
            image_column(images, self.schema.names, self.options.get("image"), self.name),
            label_column(classes, others, self.schema.names, self.options.get("label"), self.name),
        )

    def _names(self, column: str) -> tuple[str, ...] | None:
        """Return the class names that Hugging Face's metadata gives to a column."""
        try:
            content = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            names = content["info"]["features"][column]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    @cached_property
    def labels(self) -> list[Any]:
        """The values of the label column."""
        labels = [label for file in self.files for label in read_column(file, self.columns[1])]
        missing = next((row for row, label in enumerate(labels) if label is None), None)
        if missing is not None:
            raise DataError(f"row {missing} of {self.name} has no {self.columns[1]}; remove rows without labels.")
        return labels

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def is_unlabeled(self) -> bool:
        """True if every label is negative."""
        return bool(self.labels) and all(isinstance(label, int) and label < 0 for label in self.labels)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names from the metadata, or else the strings in the label column; None for plain integers."""
        names = self._names(self.columns[1])
        if names is not None:
            return names
        return tuple(sorted(set(self.labels))) if self.labels and isinstance(self.labels[0], str) else None

    def indices(self, classes: tuple[str, ...] | None) -> torch.Tensor:
        """Return the labels as class indices, (row,). Raises `DataError` for a label that is not in `classes`."""
        if self.labels and isinstance(self.labels[0], str):
            places = {name: index for index, name in enumerate(classes or ())}
            unknown = next((label for label in self.labels if label not in places), None)
            if unknown is not None:
                raise DataError(
                    f"{self.files[0]} has the label {unknown!r}, which is not one of the class names in its metadata "
                    f"({', '.join(places)}); add it to the metadata, or relabel the rows."
                )
            return torch.tensor([places[label] for label in self.labels])
        return torch.tensor(self.labels, dtype=torch.int64)

    def rows(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (row, image) for row numbers in ascending order; only the parts of the files with them are read."""
        rest = np.asarray(wanted)
        start = 0
        for file in self.files:
            count = count_rows(file)
            inside = rest[(rest >= start) & (rest < start + count)] - start
            for row, image in read_cells(file, self.columns[0], inside):
                yield start + row, image
            start += count


def _classes(tables: list[Table]) -> tuple[str, ...] | None:
    """Return the class names of all parts together."""
    names = [table.class_names for table in tables]
    if any(name is None for name in names):
        return None
    first = names[0] or ()
    # integers mean the same in each part, and strings are ordered over all parts
    return (
        first
        if all(name == first for name in names)
        else tuple(sorted({each for part in names for each in part or ()}))
    )


@dataclass(frozen=True)
class Reader:
    """Read the images of chosen rows."""

    table: Table
    root: Path
    most_pixels: int
    classes: tuple[str, ...] | None

    def __call__(self, indices: Sequence[int] | None) -> Iterator[Item]:
        labels = self.table.indices(self.classes)
        for row, value in self.table.rows(range(self.table.count) if indices is None else indices):
            place = f"row {row} of {self.table.name}"
            yield Item(place, attempt(picture_of, value, (self.root,), self.most_pixels, place), labels[row], str(row))
