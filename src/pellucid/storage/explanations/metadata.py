"""Checks of the metadata of a store, which may come from an untrusted source."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from pellucid.core.errors import DataError
from pellucid.storage.reading import parse_json
from pellucid.storage.sharded import Address
from pellucid.storage.sharded.layout import MARKS

__all__ = ["Header", "Metadata", "read_metadata"]

ROOT = "zarr.json"
MOST_IMAGES = 1 << 40
MOST_ROW_BYTES = 1 << 34
"""Largest row of one image: the Jacobian of 10,000 classes by 3×384×384 pixels has 17 GB."""
MOST_CHUNK_BYTES = 1 << 35
MOST_CLASSES = 10_000_000
CODECS = {"bytes", "vlen-utf8", "zstd", "gzip", "blosc", "crc32c", "sharding_indexed", "transpose"}
"""Codecs that cannot run code. Codecs for Python objects unpickle what they read."""
TYPES = {"string", "int64", "float16", "float32", "float64"}
VARIABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "key": ("string", ("image",)),
    "error": ("string", ("image",)),
    "label": ("int", ("image",)),
    "prediction": ("int", ("image",)),
    "target": ("int", ("image",)),
    "logits": ("float", ("image", "class")),
    "embedding": ("float", ("image", "feature")),
    "relevance": ("float", ("image", "attribution")),
    "expected": ("float", ("image", "attribution")),
    "residual": ("float", ("image", "attribution")),
    "rounding": ("float", ("image", "attribution")),
    "jacobian": ("float", ("image",)),
    "class": ("string", ("class",)),
    "attribution": ("string", ("attribution",)),
    MARKS: ("string", ("shard",)),
}
"""Kind of values and first dimensions of the variables that are read; a store can have others."""


@dataclass(frozen=True, eq=False)
class Header:
    """The shape and type of an array, and the metadata for the zarr library."""

    shape: tuple[int, ...]
    dtype: str
    """One of `TYPES`."""
    dimensions: tuple[str, ...]
    record: Mapping[str, Any]
    version: int = 3
    """Zarr format."""


@dataclass(frozen=True, eq=False)
class Metadata:
    """The metadata of a store."""

    attributes: Mapping[str, Any]
    headers: Mapping[str, Header]
    """The known variables of the store."""
    images: int
    shard: int
    """Images per shard."""

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard)


def read_metadata(address: Address) -> Metadata:
    """Read and check the metadata of a store.

    Raises `DataError` if there is no store, or one that cannot hold explanations.
    """
    content = address.read(ROOT)
    if content is not None:
        return _group(address, _parsed(content, f"{address}/{ROOT}"))
    content = address.read(".zarray")
    if content is not None:
        return _array_of_format_2(address, _parsed(content, f"{address}/.zarray"))
    raise DataError(
        f"{address} is not a store of explanations: it contains no {ROOT}. Pass the address that was given to --out or "
        "to explain_to_disk."
    )


def _group(address: Address, root: Mapping[str, Any]) -> Metadata:
    attributes = root.get("attributes")
    if root.get("node_type") != "group" or root.get("zarr_format") != 3 or not isinstance(attributes, dict):
        raise DataError(f"{address} holds a Zarr array or group of something else, not explanations.")
    known = root.get("consolidated_metadata")
    records = known.get("metadata") if isinstance(known, dict) else None
    if not isinstance(records, dict):
        names = [name for name in VARIABLES if name in set(address.names())]
        records = {
            name: _parsed(text, f"{address}/{name}") for name in names if (text := address.read(f"{name}/{ROOT}"))
        }
    headers = {name: _header(address, name, records[name]) for name in VARIABLES if name in records}
    shard = attributes.get("shard")
    if MARKS not in headers or not _is_count(shard) or shard == 0:
        raise DataError(
            f"{address} is not a store of explanations: it lacks the array {MARKS!r} or the attribute 'shard'. It may "
            "not be pellucid's, or its creation was interrupted; in that case, repeat the command that began it."
        )
    counts = {header.shape[0] for header in headers.values() if header.dimensions[0] == "image"}
    stated = attributes.get("images")
    images = max(counts, default=0) if stated is None else stated
    if not _is_count(images) or images > MOST_IMAGES or (stated is not None and counts - {images}):
        raise DataError(f"{address} states {stated!r} images, but its arrays have {sorted(counts)}; it is damaged.")
    # a store that grows states no number of images
    made = Metadata(attributes, headers, images if stated is not None else min(counts, default=0), int(shard or 1))
    _check_lengths(address, made)
    return made


def _check_lengths(address: Address, made: Metadata) -> None:
    """Check that arrays agree on the number of methods and classes."""
    for name, axis, listing in (("relevance", 1, "attribution"), ("logits", 1, "class")):
        if name in made.headers and (
            listing not in made.headers or made.headers[listing].shape[0] != made.headers[name].shape[axis]
        ):
            raise DataError(f"{address} is damaged: {name} and {listing} have different lengths.")
    for name in ("expected", "residual", "rounding"):
        if name in made.headers:
            maps = made.headers.get("relevance")
            axes = made.headers[name].shape
            if maps is None or maps.shape[: len(axes)] != axes:
                raise DataError(f"{address} is damaged: the shapes of relevance and {name} do not fit.")


def _header(address: Address, name: str, record: Any) -> Header:
    """Check the metadata of one array."""
    kind, first = VARIABLES[name]
    try:
        shape, dtype = tuple(record["shape"]), record["data_type"]
        dimensions = tuple(record.get("dimension_names") or ())
        chunk = tuple(record["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = list(_codecs(record["codecs"]))
        is_usual = (record["node_type"], record["zarr_format"], record["chunk_key_encoding"]["configuration"]) == (
            "array", 3, {"separator": "."}
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{address}: the metadata of {name} is damaged ({type(error).__name__}: {error}).") from error
    refused = sorted({str(codec) for codec in codecs} - CODECS)
    if refused or not isinstance(dtype, str) or dtype not in TYPES or not dtype.startswith(kind):
        raise DataError(
            f"{address}: {name} has type {str(dtype)[:80]} and codecs {', '.join(map(str, codecs))[:200]}; expected "
            f"{kind} values with codecs among {', '.join(sorted(CODECS))}. Others are not read: they may run code."
        )
    if dimensions[: len(first)] != first or not is_usual:
        raise DataError(f"{address}: {name} has dimensions {str(dimensions)[:80]}; expected {', '.join(first)}, ….")
    size = 32 if dtype == "string" else np.dtype(dtype).itemsize
    _check_shape(address, name, shape, chunk, size)
    if len(dimensions) != len(shape):
        raise DataError(f"{address}: {name} has {len(shape)} axes and {len(dimensions)} names for them.")
    return Header(shape, dtype, dimensions, record)


def _check_shape(address: Address, name: str, shape: tuple[Any, ...], chunk: tuple[Any, ...], size: int) -> None:
    is_sane = (
        0 < len(shape) <= 16
        and all(map(_is_count, (*shape, *chunk)))
        and len(chunk) == len(shape)
        and min(chunk) > 0
        and shape[0] <= (MOST_CLASSES if name in ("class", "attribution") else MOST_IMAGES)
        and prod(shape[1:]) * size <= MOST_ROW_BYTES
        and prod(chunk) * size <= MOST_CHUNK_BYTES
    )
    if not is_sane:
        raise DataError(
            f"{address}: {name} has shape {str(shape)[:80]} in chunks of {str(chunk)[:80]}, which is invalid or too "
            "large to be read."
        )


def _codecs(records: Any) -> Any:
    """Yield the names of all codecs, also those within shards."""
    for record in records:
        yield record["name"]
        inner = record.get("configuration") or {}
        for part in ("codecs", "index_codecs"):
            yield from _codecs(inner.get(part, ()))


def _array_of_format_2(address: Address, record: Mapping[str, Any]) -> Metadata:
    """Check the array that `jacobian_to_disk` wrote in earlier versions: Zarr format 2, uncompressed."""
    content = address.read(".zattrs")
    attributes = {} if content is None else _parsed(content, f"{address}/.zattrs")
    if not str(attributes.get("content", "")).startswith("Jacobian (image"):
        raise DataError(f"{address} holds a Zarr array of something else; expected explanations or Jacobians.")
    shape, chunks, dtype = record.get("shape"), record.get("chunks"), record.get("dtype")
    types = {"<f2": "float16", "<f4": "float32", "<f8": "float64"}
    if not isinstance(shape, list) or not isinstance(chunks, list) or not isinstance(dtype, str) or dtype not in types:
        raise DataError(f"{address}/.zarray has shape {str(shape)[:80]} and type {str(dtype)[:80]}; it is damaged.")
    if record.get("filters") is not None or record.get("compressor") is not None or record.get("zarr_format") != 2:
        raise DataError(
            f"{address}/.zarray states filters or a compressor; Jacobians have none, and some of them can run code."
        )
    _check_shape(address, "jacobian", tuple(shape), tuple(chunks), np.dtype(dtype).itemsize)
    names = ("image", *(f"axis_{number}" for number in range(1, len(shape))))
    header = Header(tuple(shape), types[dtype], names, record, version=2)
    return Metadata(attributes, {"jacobian": header}, shape[0], chunks[0])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_IMAGES


def _parsed(content: bytes, place: str) -> Mapping[str, Any]:
    try:
        record = parse_json(content)
    except ValueError as error:
        raise DataError(f"{place} is damaged: {error}.") from error
    if not isinstance(record, dict):
        raise DataError(f"{place} is damaged: it holds a {type(record).__name__}.")
    return record
