"""The variables of a store: shapes, dimension names and chunks, and the metadata that describes them."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

__all__ = ["MARKS", "Layout", "Variable"]

CHUNK_BYTES = 1 << 20
"""Approximate size of an inner chunk, the smallest part of a shard that a reader decompresses."""
MARKS = "completed"
"""Array with one entry per shard: the mark of the shard, empty until the shard is complete."""
LEVEL = 1
"""Compression level of zstd: maps hardly get smaller at higher ones, which are slower."""


@dataclass(frozen=True, eq=False)
class Variable:
    """An array with one row per image, or, with `values`, a small array that is known from the start."""

    name: str
    dtype: str
    """NumPy name, or "str"."""
    dimensions: tuple[str, ...] = ("image",)
    row: tuple[int, ...] = ()
    """Shape of one image's row."""
    alone: int = 0
    """Number of leading axes of the row that readers often index, such as the methods; chunks have length 1 there."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Meaning and unit, for readers."""
    values: np.ndarray | None = None

    @property
    def row_bytes(self) -> int:
        """Size of one row; a guess for strings."""
        return prod(self.row) * (32 if self.dtype == "str" else np.dtype(self.dtype).itemsize)


@dataclass(frozen=True, eq=False)
class Layout:
    """The content of a store, which every process that fills it must agree on."""

    images: int | None
    """Number of images; None if it is not known in advance, so that the arrays grow."""
    shard: int
    """Images per shard."""
    variables: tuple[Variable, ...]
    attributes: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """Number of shards; 0 if the number of images is not known."""
        return -(-(self.images or 0) // self.shard)

    @cached_property
    def metadata(self) -> dict[str, bytes]:
        """All files of an empty store, by key; `zarr.json` describes the group and everything in it."""
        import zarr
        from zarr.storage import MemoryStore

        files: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(files), attributes=json.loads(json.dumps(self.attributes)))
        for variable in self.variables:
            self._create(group, variable)
        group.create_array(
            MARKS,
            shape=(self.shards,),
            chunks=(1,),
            dtype=str,
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes={"long_name": "checksum of a complete shard's images; empty for a missing shard"},
            dimension_names=("shard",),
        )
        with warnings.catch_warnings():
            # readers without support for it read the metadata of each array instead
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(group.store)
        return {key: content.to_bytes() for key, content in files.items()}

    def _create(self, group: Any, variable: Variable) -> None:
        from zarr.codecs import ZstdCodec

        dtype: Any = str if variable.dtype == "str" else np.dtype(variable.dtype).newbyteorder("<")
        common: dict[str, Any] = {
            "dimension_names": variable.dimensions,
            "attributes": dict(variable.attributes),
            "compressors": [ZstdCodec(level=LEVEL, checksum=True)],
            "chunk_key_encoding": {"name": "default", "separator": "."},
        }
        if variable.values is not None:
            array = group.create_array(variable.name, shape=variable.values.shape, dtype=dtype, **common)
            array[...] = variable.values
            return
        # makes missing numbers recognizable
        fill = float("nan") if variable.dtype.startswith("float") else "" if variable.dtype == "str" else -1
        group.create_array(
            variable.name,
            shape=(self.images or 0, *variable.row),
            dtype=dtype,
            fill_value=fill,
            **self._chunks(variable),
            **common,
        )

    def _chunks(self, variable: Variable) -> dict[str, tuple[int, ...]]:
        """Return the shapes of shards and of the chunks in them; small variables have one chunk per shard."""
        whole = (self.shard, *(max(1, size) for size in variable.row))
        if self.shard * variable.row_bytes <= CHUNK_BYTES:
            return {"chunks": whole}
        row = (*(1 for _ in range(variable.alone)), *whole[1 + variable.alone :])
        size = max(1, prod(row) * variable.row_bytes // max(1, prod(variable.row)))
        most = max(1, CHUNK_BYTES // size)
        # a shard holds a whole number of chunks
        images = next(count for count in range(min(most, self.shard), 0, -1) if self.shard % count == 0)
        return {"chunks": (images, *row), "shards": whole}
