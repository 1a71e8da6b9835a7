"""The rows of several Parquet or Arrow files with the same columns."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.data._arrow import read_cells, read_labels, read_schema, row_groups
from pellucid.data._columns import image_column, optional_label_column

__all__ = ["Table", "common_classes"]


@dataclass(frozen=True)
class Table:
    """The rows of several files with the same columns."""

    files: tuple[Path, ...]
    root: Path
    name: str
    options: dict[str, str]

    @cached_property
    def schema(self) -> Any:
        """The columns of the first file."""
        return read_schema(self.files[0])

    @cached_property
    def _candidates(self) -> tuple[list[str], list[str], list[str]]:
        """Names of the columns of images, of class labels, and of other integers and strings."""
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
        return images, classes, others

    @cached_property
    def image(self) -> str:
        """Name of the image column."""
        return image_column(self._candidates[0], self.schema.names, self.options.get("image"), self.name)

    @cached_property
    def label(self) -> str | DataError:
        """Name of the label column, or the reason why there is none."""
        assert self.image  # an error about the images comes first
        _, classes, others = self._candidates
        return optional_label_column(classes, others, self.schema.names, self.options.get("label"), self.name)

    def _names(self, column: str) -> tuple[str, ...] | None:
        """Return the class names that Hugging Face's metadata gives to a column."""
        try:
            content = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            names = content["info"]["features"][column]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Number of rows of each independent part of each file."""
        return [row_groups(file) for file in self.files]

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of the first row of each file, and the number of all rows."""
        return np.cumsum([0, *(int(counts.sum()) for counts in self.groups)])

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    @cached_property
    def values(self) -> tuple[np.ndarray, tuple[str, ...] | None]:
        """The label column: integers, or strings as indices of their sorted values, which follow."""
        assert isinstance(self.label, str)
        read = [read_labels(file, self.label) for file in self.files]
        if all(names is None for _, names in read):
            return np.concatenate([codes for codes, _ in read]), None
        if any(names is None for codes, names in read if len(codes)):
            raise DataError(f"the column {self.label} of {self.name} has integers in one file and strings in another.")
        names = tuple(sorted({name for _, each in read for name in each or ()}))
        places = {name: index for index, name in enumerate(names)}
        parts = [np.array([places[name] for name in each or ()], np.int64)[codes] for codes, each in read]
        return np.concatenate(parts), names

    @property
    def is_unlabeled(self) -> bool:
        """True without a label column, and if every label is negative."""
        return not isinstance(self.label, str) or (self.count > 0 and bool((self.values[0] < 0).all()))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names from the metadata, or else the strings in the label column; None for plain integers."""
        if not isinstance(self.label, str):
            return None
        names = self._names(self.label)
        return names if names is not None else (self.values[1] or None)

    def indices(self, classes: tuple[str, ...] | None) -> torch.Tensor:
        """Return the labels as class indices, (row,). Raises `DataError` for a label that is not in `classes`."""
        codes, names = self.values
        if names is None:
            return torch.from_numpy(codes.copy())
        places = {name: index for index, name in enumerate(classes or ())}
        unknown = next((name for name in names if name not in places), None)
        if unknown is not None:
            raise DataError(
                f"{self.files[0]} has the label {unknown!r}, which is not one of the class names in its metadata "
                f"({', '.join(places)}); add it to the metadata, or relabel the rows."
            )
        return torch.from_numpy(np.array([places[name] for name in names], np.int64)[codes])

    def rows(self, wanted: Sequence[int]) -> Iterator[tuple[int, str, Any]]:
        """Yield (row, key, image) for row numbers in ascending order, from the parts of the files that hold them."""
        rest = np.asarray(wanted, np.int64)
        numbers = np.searchsorted(self.starts, rest, side="right") - 1
        for number in np.unique(numbers).tolist():
            file, start = self.files[number], int(self.starts[number])
            name = file.relative_to(self.root).as_posix()
            for row, image in read_cells(file, self.image, rest[numbers == number] - start, self.groups[number]):
                yield start + row, f"{name}:{row}", image

    def contents(self) -> Iterator[bytes]:
        """Yield what identifies the table: its columns, and the names, sizes and numbers of rows of its files."""
        yield f"{self.image}\0{self.label}".encode()
        for file, counts in zip(self.files, self.groups, strict=True):
            sizes = f"{file.stat().st_size} {counts.tolist()}"
            yield f"{file.relative_to(self.root).as_posix()}\0{sizes}".encode("utf-8", "surrogateescape")


def common_classes(tables: list[Table]) -> tuple[str, ...] | None:
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
