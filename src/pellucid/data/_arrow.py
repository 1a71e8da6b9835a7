"""Read single rows and columns of Parquet and Arrow files, with pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import DataError

__all__ = ["count_rows", "read_cells", "read_column", "read_schema"]

ROWS_AT_ONCE = 32
"""Rows decoded at a time, because a row group may hold a million images."""


def _opened(file: Path) -> Any:
    """Open a file, memory-mapped: a `ParquetFile`, or a list of record batches."""
    import pyarrow as pa
    from pyarrow import ipc
    from pyarrow import parquet as reader

    with _readable(file):
        if file.suffix.lower() == ".parquet":
            return reader.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        source = pa.memory_map(str(file))
        try:
            return ipc.open_file(source)
        except pa.ArrowInvalid:  # the streaming format of Hugging Face's files; its batches share the mapped memory
            source.seek(0)
            return ipc.open_stream(source).read_all()


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Convert errors of pyarrow for a damaged file to `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {str(error) or type(error).__name__}") from error


def read_schema(file: Path) -> Any:
    """Return the schema of a file, a `pyarrow.Schema`."""
    opened = _opened(file)
    return opened.schema_arrow if hasattr(opened, "schema_arrow") else opened.schema


def count_rows(file: Path) -> int:
    """Return the number of rows of a file."""
    opened = _opened(file)
    if hasattr(opened, "metadata") and hasattr(opened, "iter_batches"):
        return int(opened.metadata.num_rows)
    return sum(batch.num_rows for batch in _batches(opened))


def _batches(opened: Any) -> Iterator[Any]:
    """Yield the record batches of an Arrow file."""
    if hasattr(opened, "num_record_batches"):
        return (opened.get_batch(index) for index in range(opened.num_record_batches))
    return iter(opened.to_batches(ROWS_AT_ONCE))


def read_column(file: Path, name: str) -> list[Any]:
    """Return the values of a column of numbers or strings."""
    with _readable(file):
        opened = _checked(_opened(file), file, name)
        if hasattr(opened, "iter_batches"):
            return list(opened.read(columns=[name]).column(name).to_pylist())
        return [value for batch in _batches(opened) for value in batch.column(name).to_pylist()]


def _checked(opened: Any, file: Path, name: str) -> Any:
    schema = opened.schema_arrow if hasattr(opened, "schema_arrow") else opened.schema
    if name not in schema.names:
        raise DataError(f"{file} has no column {name}, unlike the first file; all files must have the same columns.")
    return opened


def read_cells(file: Path, name: str, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield (row, value) of one column for ascending rows, decoding a few rows at a time."""
    if len(rows):
        with _readable(file):
            yield from _chosen(_checked(_opened(file), file, name), name, rows)


def _chosen(opened: Any, name: str, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
    start = 0
    for count, batches in _groups(opened, name):
        chosen = rows[(rows >= start) & (rows < start + count)]
        if len(chosen):
            position = start
            for batch in batches():
                inside = chosen[(chosen >= position) & (chosen < position + batch.num_rows)]
                for row in inside.tolist():
                    yield row, batch.column(name)[row - position].as_py()
                position += batch.num_rows
                if position > chosen[-1]:
                    break
        start += count


def _groups(opened: Any, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of rows of each independent part of a file, and a function that reads its batches."""
    if not hasattr(opened, "iter_batches"):
        for batch in _batches(opened):
            yield batch.num_rows, lambda batch=batch: iter((batch,))
        return
    for group in range(opened.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        yield rows, lambda group=group: opened.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[name])
