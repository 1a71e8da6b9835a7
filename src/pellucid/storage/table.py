"""Tables as Parquet files."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.importing import import_optional
from pellucid.storage.atomic import json_text, write_bytes

__all__ = ["require_parquet", "write_table"]

ROWS_PER_GROUP = 1000
"""Rows per row group, which a reader loads at once."""


def require_parquet(purpose: str) -> Any:
    """Return the module `pyarrow`; raises `ConfigError`, which names the extra, without it."""
    return import_optional("pyarrow", purpose, "parquet")


def write_table(
    path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray], images: Mapping[str, list[bytes]], about: Any
) -> None:
    """Replace a Parquet file atomically.

    A matrix becomes a column of lists. `images` are encoded images, stored as in Hugging Face data sets: structs of
    `bytes` and `path`. `about` is stored as JSON in the schema's metadata, under the key `pellucid`.

    Raises `ConfigError` without pyarrow, and `WriteError` if the file cannot be written.
    """
    pa = require_parquet("a Parquet file")
    from pyarrow import parquet

    arrays = {name: _array(pa, values) for name, values in columns.items()}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, pictures in images.items():
        arrays[name] = pa.array([{"bytes": picture, "path": None} for picture in pictures], struct)
    features = {name: {"_type": "Image"} for name in images}
    metadata = {"pellucid": json_text(about), "huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(arrays).replace_schema_metadata(metadata), buffer, row_group_size=ROWS_PER_GROUP)
    write_bytes(path, buffer.getvalue())


def _array(pa: Any, values: Sequence[Any] | np.ndarray) -> Any:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        starts = pa.array(np.arange(len(values) + 1, dtype=np.int64) * values.shape[1])
        return pa.LargeListArray.from_arrays(starts, flat)
    if isinstance(values, np.ndarray):
        return pa.array(values)
    # a column without values would have the null type, which few programs can read
    return (
        pa.array(values, pa.string())
        if all(value is None or isinstance(value, str) for value in values)
        else pa.array(values)
    )
