"""The table `maps.parquet` beside a finished store: one row per image, without its maps."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import ConfigError, SaveError
from pellucid.core.files import TEMPORARY
from pellucid.core.terminal import print_line, track
from pellucid.storage.atomic import json_text
from pellucid.storage.explanations import StoredExplanations, open_explanations
from pellucid.storage.sharded import Address
from pellucid.storage.table import require_parquet

__all__ = ["check_index_place", "index_address", "write_index"]

ROWS_PER_GROUP = 10_000
"""Minimum number of images in a row group, which holds whole shards."""
MARKS = "completed"
INDEX = '{"content": "index of pellucid explanations"'
"""Beginning of what a table says about itself."""
VALUES_AT_ONCE = 5_000_000
"""Limit of the values of a column that are converted at a time, if all classes are explained."""
SUMS = ("expected", "residual", "rounding")


def index_address(address: Address) -> Address | None:
    """Return the address of a store's table; None for a store at the root of its bucket.

    >>> str(index_address(Address.of("s3://bucket/maps.zarr")))
    's3://bucket/maps.parquet'
    """
    _, _, place = address.text.rpartition("://")
    return address.sibling(f"{address.name.removesuffix('.zarr')}.parquet") if "/" in place else None


def write_index(address: Address, *, is_announced: bool = False) -> str:
    """Write the table of a complete store, and return its address; "" if there is none.

    The table has one row per image: `index`, `key`, `label`, `label_name`, `prediction`, `prediction_name`,
    `is_correct`, `target`, `probability` (of the prediction), `error`, `shard` and, by method, `expected.METHOD`,
    `residual.METHOD` and `rounding.METHOD`. Missing values are null. Equal stores have equal tables, byte by byte, and
    memory does not depend on the number of images.

    A table that is newer than the store is left as it is. Nothing is written for a store with missing shards or without
    keys, and, with a notice, without pyarrow. Raises `DataError` for a damaged shard, and `SaveError` if the table
    cannot be written.
    """
    stored = open_explanations(address)
    place = index_address(address)
    if place is None or not stored.is_complete or not {"key", "error"} <= set(stored.variables):
        return ""
    try:
        require_parquet("the index")
    except ConfigError as error:
        if is_announced:
            print_line(f"Notice: no index was written next to {address}: {error}")
        return ""
    about = {
        "content": "index of pellucid explanations",
        "format": 1,
        "images": len(stored),
        "shard": stored.attributes["shard"],
        "settings": dict(stored.settings),
    }
    check_index_place(address)
    if not _is_current(place, address, about):
        _replace(place, lambda file: _write(file, stored, about))
    return str(place)


def check_index_place(address: Address) -> None:
    """Raise `SaveError` if the table of a store would replace a file that is not such a table."""
    address.read("zarr.json")  # an address that cannot be read is named as the user gave it
    place = index_address(address)
    if place is None:
        return
    try:
        # imported before the work, so that memory does not grow at its end
        require_parquet("the index")
        import_module("pyarrow.parquet")
    except ConfigError:  # then no table is written
        return
    if any(_modified(place)) and not _metadata_of(place).startswith(INDEX.encode()):
        raise SaveError(
            f"{place} exists, and is not the index of a store: the index of {address} would replace it. Choose another "
            "name for the store, or move that file."
        )


def _metadata_of(place: Address) -> bytes:
    """Return what a table says about itself; empty for a damaged one, and for anything else."""
    from pyarrow import ArrowException, parquet

    try:
        if place.folder is not None:
            schema = parquet.read_schema(place.folder)
        else:
            files, path = place._remote
            with files.open(path) as file:
                schema = parquet.read_schema(file)
    except (ArrowException, OSError):
        return b""
    return bytes((schema.metadata or {}).get(b"pellucid", b""))


def _replace(place: Address, write: Callable[[Path], None]) -> None:
    """Write a file, then move it to an address, so that readers see the old or the new one."""
    if place.folder is not None:
        file = place.folder.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
        try:
            with place.reporting("written"):
                write(file)
                file.replace(place.folder)
        finally:
            file.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / place.name
        write(file)
        with place.reporting("written"):
            files, path = place._remote
            files.put_file(str(file), path)


def _write(file: Path, stored: StoredExplanations, about: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(stored).with_metadata({"pellucid": json_text(about)})
    shard, images = stored.attributes["shard"], len(stored)
    most = ROWS_PER_GROUP if "target" in stored.variables else VALUES_AT_ONCE // max(1, len(stored.classes))
    step = max(1, -(-min(ROWS_PER_GROUP, most) // shard)) * shard
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer, track("index", images) as tracker:
        for start in range(0, images, step):
            columns = dict(_columns(stored[start : start + step], shard))
            # the columns have the order of the schema
            arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=step)
            tracker.update(min(start + step, images))


def _schema(stored: StoredExplanations) -> Any:
    import pyarrow as pa

    types = {
        "index": pa.int64(),
        "key": pa.string(),
        "label": pa.int64(),
        "label_name": pa.string(),
        "prediction": pa.int64(),
        "prediction_name": pa.string(),
        "is_correct": pa.bool_(),
        "target": pa.int64(),
        "probability": pa.float32(),
        "error": pa.string(),
        "shard": pa.int64(),
    }
    variables = set(stored.variables)
    if "target" not in variables:
        del types["target"]
    if "relevance" in variables:
        # one value for each class, if all are explained
        number = pa.float32() if "target" in variables else pa.list_(pa.float32())
        types |= {f"{name}.{method}": number for method in stored.methods for name in SUMS if name in variables}
    return pa.schema(list(types.items()))


def _columns(part: StoredExplanations, shard: int) -> Iterator[tuple[str, Any]]:
    """Yield the columns of some images, with None or NaN for missing values."""
    classes, variables = np.array([*part.classes, None], object), set(part.variables)
    labels, predictions = part.labels, part.predictions
    has_results = part.errors == ""
    readable = part[has_results]
    yield "index", part.indices
    yield "key", part.keys
    yield "error", part.errors
    yield "shard", part.indices // shard
    # the last name, None, is that of the class −1
    yield "label", _known(labels)
    yield "label_name", classes[labels]
    yield "prediction", _known(predictions)
    yield "prediction_name", classes[predictions]
    is_known = (labels >= 0) & (predictions >= 0)
    yield "is_correct", np.where(is_known, labels == predictions, None)
    if "target" in variables:
        yield "target", _known(part.targets)
    yield "probability", _spread(readable.probabilities, has_results)
    promising, nothing = readable.methods_with_sums, [None] * len(part)
    for method in part.methods:
        for name in SUMS:
            if name in variables:
                has_sum = name == "rounding" or method in promising
                yield f"{name}.{method}", _sums(getattr(readable, name)(method), has_results) if has_sum else nothing


def _known(numbers: np.ndarray) -> np.ndarray:
    known = numbers.astype(object)
    known[numbers < 0] = None
    return known


def _spread(values: np.ndarray, has_results: np.ndarray) -> np.ndarray:
    """Return one row per image, NaN for images without results."""
    rows = np.full((len(has_results), *values.shape[1:]), np.nan, np.float32)
    rows[has_results] = values
    return rows


def _sums(values: np.ndarray, has_results: np.ndarray) -> Any:
    rows = _spread(values, has_results)
    return rows if rows.ndim == 1 else [None if np.isnan(row).all() else row.tolist() for row in rows]


def _is_current(place: Address, address: Address, about: Mapping[str, Any]) -> bool:
    """Return True if a table of the same settings is newer than all shards."""
    written, marks = _modified(place), _modified(Address(f"{address.text}/{MARKS}"))
    if not written or None in marks or written[0] is None or written[0] < max(marks):
        return False
    return _metadata_of(place) == json_text(about).encode()


def _modified(place: Address) -> list[Any]:
    """Return when a file, or each file in a folder, was last changed; None where the storage does not say."""
    if place.folder is not None:
        if not place.folder.is_dir():
            return [place.folder.stat().st_mtime_ns] if place.folder.is_file() else []
        with os.scandir(place.folder) as entries:
            return [entry.stat().st_mtime_ns for entry in entries]
    files, path = place._remote
    try:
        entries = files.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return [entry.get("LastModified") or entry.get("mtime") or entry.get("created") for entry in entries]
