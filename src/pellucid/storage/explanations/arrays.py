"""Guarded reads of the rows of a store."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pellucid.core.errors import DataError, PellucidError
from pellucid.storage.explanations.guarded import guarded
from pellucid.storage.explanations.metadata import Header, Metadata, read_metadata
from pellucid.storage.sharded import Address
from pellucid.storage.sharded.layout import MARKS

__all__ = ["Rows", "StoredArrays"]

Rows = np.ndarray | range
"""Positions of images in a store, ascending or not."""


class StoredArrays:
    """The arrays of a store, opened once in each process that reads them; pickled as their address.

    Shards that are completed later are not seen.
    """

    def __init__(self, address: Address, metadata: Metadata, completed: np.ndarray) -> None:
        self.address = address
        self.metadata = metadata
        self.completed = completed
        """Numbers of the complete shards, ascending."""
        self._opened: dict[str, Any] = {}
        self._process = os.getpid()

    @classmethod
    def open(cls, address: Address) -> "StoredArrays":
        """Open a store. Raises `DataError` if there is none, or if its metadata is invalid."""
        metadata = read_metadata(address)
        if MARKS not in metadata.headers:
            return cls(address, metadata, np.arange(metadata.shards))
        names = (name[2:] for name in address.names(MARKS) if name.startswith("c."))
        numbers = [int(name) for name in names if name.isdecimal() and len(name) < 14]
        completed = np.array(sorted(number for number in numbers if number < metadata.shards), np.int64)
        return cls(address, metadata, completed)

    def __getstate__(self) -> dict[str, Any]:
        # open files and connections cannot be pickled
        return {"text": self.address.text, "metadata": self.metadata, "completed": self.completed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Address(state["text"]), state["metadata"], state["completed"])  # type: ignore[misc]

    def __contains__(self, name: str) -> bool:
        return name in self.metadata.headers

    def header(self, name: str) -> Header:
        """Return the header of a variable. Raises `DataError`, which lists the others, if the store lacks it."""
        if name not in self.metadata.headers:
            known = ", ".join(sorted(set(self.metadata.headers) - {MARKS}))
            raise DataError(f"{self.address} holds no {name}, only {known}.")
        return self.metadata.headers[name]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; empty if the store has none."""
        return self._names("class")

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods; empty if the store has no maps."""
        return self._names("attribution")

    def _names(self, name: str) -> tuple[str, ...]:
        if name not in self:
            return ()
        return tuple(map(str, self._attempt(name, lambda: self._array(name)[...], None)))

    # --- rows ----------------------------------------------------------------------------------------------------

    def shards_of(self, rows: Rows) -> np.ndarray:
        """Return the number of the shard of each row."""
        return np.asarray(rows, np.int64) // self.metadata.shard

    def is_complete(self, rows: Rows) -> np.ndarray:
        """Return True for each row whose shard is complete."""
        if len(self.completed) == self.metadata.shards:
            return np.ones(len(rows), bool)
        return np.isin(self.shards_of(rows), self.completed)

    def by_shard(self, rows: Rows) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows in complete shards, in their order, in runs of the same shard: its number, and the rows."""
        size = self.metadata.shard
        if isinstance(rows, range) and rows.step == 1:
            first, last = np.searchsorted(self.completed, [rows.start // size, -(-rows.stop // size)])
            for number in self.completed[first:last].tolist():
                start, stop = max(rows.start, number * size), min(rows.stop, (number + 1) * size)
                if start < stop:
                    yield number, np.arange(start, stop)
            return
        places = np.asarray(rows, np.int64)
        places = places[self.is_complete(places)]
        numbers = self.shards_of(places)
        for part in np.split(places, np.flatnonzero(np.diff(numbers)) + 1):
            if len(part):
                yield int(part[0]) // size, part

    def read(self, name: str, rows: Rows, method: int | None = None) -> np.ndarray:
        """Return rows of complete shards; floats as float32 or float64, strings as objects.

        `method` selects one method. Raises `DataError` if a shard is missing or its file is missing or damaged.
        """
        header = self.header(name)
        wanted = np.asarray(rows, np.int64)
        is_complete = self.is_complete(wanted)
        if not is_complete.all():
            row = int(wanted[~is_complete][0])
            raise DataError(
                f"{self.address}: {int((~is_complete).sum()):,} of {len(wanted):,} requested images are in shards that "
                f"are not complete; the first is image {row:,} in shard {row // self.metadata.shard}. Use select() to "
                "leave them out, or repeat the command that began the store to complete it."
            )
        places, inverse = np.unique(wanted, return_inverse=True)
        part = () if method is None else (slice(method, method + 1),)
        values = self._rows(name, places, part) if len(places) else self._none(header, part)
        values = values if method is None else values[:, 0]
        # without the order and the repetitions of the request, most reads would be copied for nothing
        values = values if len(places) == len(wanted) and (inverse[:-1] < inverse[1:]).all() else values[inverse]
        kind = {"float16": np.float32, "string": object}.get(header.dtype)
        return values if kind is None else values.astype(kind)

    def _rows(self, name: str, places: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
        start, stop = int(places[0]), int(places[-1]) + 1
        shards = np.unique(self.shards_of(places)).tolist()

        def read() -> np.ndarray:
            array = self._array(name)
            if stop - start == len(places):
                return np.asarray(array[(slice(start, stop), *part)])
            return np.asarray(array.get_orthogonal_selection((places, *part)))

        if len(shards) == 1:
            return self._attempt(name, read, shards[0])
        try:
            return read()
        except PellucidError:
            raise
        except Exception:  # noqa: BLE001  (to find the shard)
            numbers = self.shards_of(places)
            return np.concatenate([self._rows(name, places[numbers == number], part) for number in shards])

    def _none(self, header: Header, part: Sequence[slice]) -> np.ndarray:
        row = (1, *header.shape[2:]) if part else header.shape[1:]
        return np.empty((0, *row), object if header.dtype == "string" else header.dtype)

    # --- the zarr library ----------------------------------------------------------------------------------------

    def _array(self, name: str) -> Any:
        if self._process != os.getpid():  # a fork, such as a worker of a DataLoader
            self._opened, self._process = {}, os.getpid()
            self.address = Address(self.address.text)
        if name not in self._opened:
            self._opened[name] = guarded(self.address, name, self.metadata.headers[name], self.damaged)
        return self._opened[name]

    def _attempt(self, name: str, read: Callable[[], Any], shard: int | None) -> Any:
        try:
            return read()
        except PellucidError:
            raise
        except Exception as error:
            if isinstance(error, OSError) or shard is None:
                raise DataError(f"{self.address}: {name} cannot be read: {type(error).__name__}: {error}") from error
            raise self.damaged(name, shard, f"{type(error).__name__}: {' '.join(str(error).split())}") from error

    def damaged(self, name: str, shard: int, reason: str) -> DataError:
        """Return the error for a shard that is marked as complete but has missing or damaged files."""
        if MARKS not in self.metadata.headers:
            return DataError(
                f"{self.address}: chunk {shard} of {name} is damaged ({reason}). Delete .marks/{shard} and call "
                "jacobian_to_disk again to compute it anew."
            )
        return DataError(
            f"{self.address}: {name} of shard {shard} is damaged ({reason}). Delete {MARKS}/c.{shard} in the store, "
            "and repeat the command that wrote it to compute the shard again."
        )
