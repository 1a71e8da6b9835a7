"""A store that processes on any number of machines fill together, without locks."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pellucid.core.errors import SaveError
from pellucid.storage.sharded.address import Address
from pellucid.storage.sharded.layout import MARKS, Layout

__all__ = ["ShardedStore"]

ROOT = "zarr.json"
FREE = ("provenance",)
"""Attributes that describe the process that began a store, and may differ between the processes that fill it."""


class ShardedStore:
    """A Zarr group whose arrays are written in whole shards along the images.

    A shard is complete once its mark exists, which is written last. Two processes that compute the same shard write the
    same bytes, so no process needs to know of any other.
    """

    def __init__(self, address: Address, attributes: Mapping[str, Any]) -> None:
        self.address = address
        self.attributes = attributes

    # --- begin and open ----------------------------------------------------------------------------------------

    @classmethod
    def join(cls, address: Address, layout: Layout) -> "ShardedStore":
        """Begin a store, or join the one that other processes have begun with the same layout and attributes.

        Raises `SaveError` if the address holds something else, or a store with other settings, which it names.
        """
        existing = cls.attributes_at(address)
        if existing is None:
            names = [name for name in address.names() if not name.endswith(".partial")]
            # another process may have begun the store before the listing
            existing = cls.attributes_at(address) if ROOT in names else None
            if existing is None and names:
                raise SaveError(_occupied(address, names))
        if existing is None:
            # the first process to write this file decides; everything else follows from it
            address.create(ROOT, layout.metadata[ROOT])
            existing = cls.attributes_at(address)
        if existing is None:
            raise SaveError(f"{address} has vanished while it was being created; repeat the call.")
        differing = _differences(existing, json.loads(json.dumps(layout.attributes)))
        if differing:
            lines = [_difference(*one) for one in differing]
            raise SaveError(
                f"{address} was begun with other settings: {'; '.join(lines)}. Use the same settings to continue it, "
                "or choose another folder."
            )
        store = cls(address, existing)
        store._complete(layout)
        return store

    @classmethod
    def open(cls, address: Address) -> "ShardedStore":
        """Open an existing store. Raises `SaveError` if there is none."""
        attributes = cls.attributes_at(address)
        if attributes is None:
            raise SaveError(f"{address} is not a store of explanations: it contains no {ROOT}.")
        return cls(address, attributes)

    @staticmethod
    def attributes_at(address: Address) -> dict[str, Any] | None:
        """Return the attributes of the store at an address; None if no store exists.

        Raises `SaveError` for anything else that Zarr could read.
        """
        content = address.read(ROOT)
        if content is None:
            return None
        try:
            record = json.loads(content)
            is_group = record["node_type"] == "group" and record["zarr_format"] == 3
            attributes = record["attributes"] if is_group else None
        except (ValueError, KeyError, TypeError):
            attributes = None
        if not isinstance(attributes, dict):
            raise SaveError(f"{address} holds a {ROOT} of something else; choose a new folder.")
        return attributes

    def _complete(self, layout: Layout) -> None:
        """Write what an interrupted process left out after `zarr.json`."""
        # the last entry is written last
        if self.address.read(f"{MARKS}/{ROOT}") is not None:
            return
        for key, content in layout.metadata.items():
            if key not in (ROOT, f"{MARKS}/{ROOT}"):
                self.address.write(key, content)
        self.address.write(f"{MARKS}/{ROOT}", layout.metadata[f"{MARKS}/{ROOT}"])

    # --- arrays ------------------------------------------------------------------------------------------------

    @cached_property
    def group(self) -> Any:
        """The Zarr group, for reading."""
        import zarr

        with self.address.reporting("read"):
            return zarr.open_group(self.address.zarr_store(read_only=True), mode="r", zarr_format=3)

    @cached_property
    def _writable(self) -> dict[str, Any]:
        """The arrays with one row per image, and the marks, without a limit to their length."""
        import zarr

        with self.address.reporting("opened"):
            group = zarr.open_group(self.address.zarr_store(), mode="r+", zarr_format=3, use_consolidated=False)
            return {name: _endless(array) for name, array in group.arrays() if name == MARKS or _is_per_image(array)}

    @cached_property
    def shard(self) -> int:
        """Images per shard."""
        return int(self.attributes["shard"])

    @cached_property
    def images(self) -> int:
        """Number of images of a store whose length is known; 0 otherwise."""
        return int(self.attributes["images"] or 0)

    @property
    def shards(self) -> int:
        """Number of shards of a store whose length is known; 0 otherwise."""
        return -(-self.images // self.shard)

    def rows_of(self, number: int) -> range:
        """Return the positions of a shard's images."""
        return range(number * self.shard, min((number + 1) * self.shard, self.images))

    # --- shards ------------------------------------------------------------------------------------------------

    def completed(self) -> np.ndarray:
        """Return the numbers of the complete shards, ascending; one listing, however many there are."""
        names = (name for name in self.address.names(MARKS) if name.startswith("c."))
        numbers = [int(name[2:]) for name in names if name[2:].isdecimal()]
        return np.sort(np.array(numbers, np.int64))

    def is_complete(self, number: int) -> bool:
        """True if a shard is complete."""
        return self.address.read(f"{MARKS}/c.{number}") is not None

    def mark(self, number: int) -> str | None:
        """Return the mark of a shard; None if it is not complete."""
        with self.address.reporting("read"):
            return str(self._writable[MARKS][number]) if self.is_complete(number) else None

    def write(self, number: int, rows: Mapping[str, np.ndarray], mark: str) -> None:
        """Write a shard: its rows of every variable, then its mark.

        Raises `SaveError` if the disk is full or the store has vanished or been replaced; the shard is then missing.
        """
        self.check_unchanged()
        try:
            self._write(number, rows, mark)
        except SaveError:
            self.check_unchanged()  # if the store has vanished in the meantime, that is the reason
            raise

    def _write(self, number: int, rows: Mapping[str, np.ndarray], mark: str) -> None:
        start = number * self.shard
        with self.address.reporting("written"):
            for name, values in rows.items():
                array = self._writable[name]
                # the last shard, too, is written whole: a part would be merged with what a damaged file holds
                if missing := self.shard - len(values):
                    rest = np.full((missing, *values.shape[1:]), array.fill_value, values.dtype)
                    values = np.concatenate([values, rest])
                array[start : start + self.shard] = values
            self.address.sync(self._key(name, number) for name in rows)
            self._writable[MARKS][number : number + 1] = np.array([mark], dtype=object)
            self.address.sync([f"{MARKS}/c.{number}"])

    def check_unchanged(self) -> None:
        """Raise `SaveError` if the store has vanished or been replaced, before anything is written beside it."""
        if self.attributes_at(self.address) != self.attributes:
            raise SaveError(
                f"{self.address} has vanished or been replaced since this process joined it. Make it available again, "
                "and repeat the call to continue."
            )

    def _key(self, name: str, number: int) -> str:
        """Return the key of the file that holds a shard of a variable."""
        return f"{name}/c.{'.'.join([str(number), *'0' * (self._writable[name].ndim - 1)])}"

    # --- stores that grow --------------------------------------------------------------------------------------

    def resize(self, images: int) -> None:
        """Set the number of rows that readers see, for a store whose length is not known in advance."""
        root = json.loads(self.address.read(ROOT) or b"{}")
        described = root.get("consolidated_metadata", {}).get("metadata", {})
        for name in self._writable:
            record = json.loads(self.address.read(f"{name}/{ROOT}") or b"{}")
            rows = -(-images // self.shard) if name == MARKS else images
            if record["shape"][0] == rows:
                continue
            record["shape"][0] = rows
            self.address.write(f"{name}/{ROOT}", _as_json(record))
            if name in described:
                described[name]["shape"] = record["shape"]
        # last: it repeats the descriptions of the arrays
        self.address.write(ROOT, _as_json(root))


def _as_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=2).encode()


def _occupied(address: Address, names: Sequence[str]) -> str:
    if ".zarray" in names:
        return (
            f"{address} is an array of an earlier version of pellucid (Zarr format 2), which can be read with "
            "pellucid.open_explanations, but not continued; choose a new folder."
        )
    return f"{address} contains other files ({', '.join(sorted(names)[:3])}); choose a new folder."


def _is_per_image(array: Any) -> bool:
    names = array.metadata.dimension_names
    return bool(names) and names[0] == "image"


def _endless(array: Any) -> Any:
    """Return an array to write into at any row; the rows that readers see stay as they are."""
    from zarr import Array, AsyncArray

    inner = array.async_array
    metadata = inner.metadata.update_shape((1 << 40, *array.shape[1:]))
    # without this, a part of a shard with only fill values would not be written, and look like a missing one
    return Array(AsyncArray(metadata, inner.store_path, config={"write_empty_chunks": True}))


def _differences(existing: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """Return (name, existing, wanted) for each setting that differs; nested names are joined by dots."""
    found: list[tuple[str, Any, Any]] = []
    for name in {**wanted, **existing}:
        one, other = existing.get(name), wanted.get(name)
        if not path and name in FREE:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{path}{name}.")
        elif one != other:
            found.append((f"{path}{name}", one, other))
    return found


def _difference(name: str, existing: Any, wanted: Any) -> str:
    name = name.removeprefix("settings.")
    return f"{name} is {_short(existing)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
