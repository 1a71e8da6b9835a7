"""Read single rows and columns of Parquet and Arrow files, with pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import DataError

__all__ = ["count_rows", "read_cells", "read_column", "read_schema", "read_table"]

LARGEST_WHOLE = 2**53
"""Floats up to this value hold every whole number."""
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


def read_table(file: Path) -> tuple[list[str], int, dict[str, str], Any]:
    """Return the columns of a table, its number of rows, the columns left out with a reason, and a function.

    The function takes the number of a column and the rows, and returns the values: an array of numbers, booleans or
    dates, or of objects (text), or the reason why the column cannot be converted. Missing values are NaN, NaT or None.
    """
    from pyarrow import types

    schema = read_schema(file)
    names = list(schema.names)
    left_out = {}
    for name, kind in zip(names, schema.types, strict=True):
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(is_kind(kind) for is_kind in _usable()):
            left_out[name] = f"its values are of type {str(kind)[:60]}, which cannot be grouped"
    wanted = [name for name in names if name not in left_out]
    with _readable(file):
        opened = _opened(file)
        if hasattr(opened, "iter_batches"):
            table = opened.read(columns=wanted)
        else:
            # by position, because names may repeat, which the caller reports
            table = _whole(opened).select([number for number, name in enumerate(names) if name not in left_out])

    def pick(number: int, rows: np.ndarray) -> np.ndarray | str:
        import pyarrow as pa

        try:
            return _values(table.column(names[number]).take(pa.array(rows)))
        except (pa.ArrowException, UnicodeDecodeError, ValueError, KeyError) as error:
            return f"its values cannot be read: {str(error)[:200]}"

    return names, count_rows(file), left_out, pick


def _whole(opened: Any) -> Any:
    return opened.read_all() if hasattr(opened, "read_all") else opened


def _usable() -> tuple[Any, ...]:
    from pyarrow import types

    numbers = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    return (*numbers, *texts, types.is_date, types.is_timestamp, types.is_null)


def _values(column: Any) -> np.ndarray:
    """Convert a column of a table."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_floating(kind) or types.is_decimal(kind) or (types.is_integer(kind) and column.null_count):
        whole = column.to_pylist() if types.is_integer(kind) else []
        if any(value is not None and abs(value) > LARGEST_WHOLE for value in whole):
            return np.array(whole, object)  # a float could make two of them equal
        column = column.cast(pa.float64(), safe=False)
        return np.array([np.nan if value is None else value for value in column.to_pylist()], np.float64)
    if types.is_integer(kind):
        return np.asarray(column.to_numpy())
    if types.is_date(kind) or types.is_timestamp(kind):
        # without the time zone, timestamps are in UTC
        # in its own unit, since seconds can count more years than microseconds
        return np.asarray(column.to_numpy())
    made = np.empty(len(column), object)
    made[:] = column.to_pylist()
    return made.astype(bool) if types.is_boolean(kind) and not column.null_count else made
