"""Read single rows and columns of Parquet and Arrow files, with pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import DataError
from pellucid.core.files import is_shortage

__all__ = ["count_rows", "read_cells", "read_labels", "read_schema", "read_table", "row_groups"]

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
    return int(row_groups(file).sum())


def row_groups(file: Path) -> np.ndarray:
    """Return the number of rows of each part of a file that can be read without the others, (part,)."""
    with _readable(file):
        opened = _opened(file)
        if hasattr(opened, "iter_batches"):
            counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        elif hasattr(opened, "num_record_batches"):
            counts = [opened.get_batch(index).num_rows for index in range(opened.num_record_batches)]
        else:
            counts = [batch.num_rows for batch in opened.to_batches()]
    return np.array(counts, np.int64)


def read_labels(file: Path, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Return a column of integers, or of strings as (row,) indices of the values that are also returned.

    Raises `DataError` for a missing value and for integers of more than 64 bits.
    """
    import pyarrow as pa
    from pyarrow import types

    with _readable(file):
        opened = _checked(_opened(file), file, name)
        if hasattr(opened, "iter_batches"):
            column = opened.read(columns=[name]).column(name)
        else:
            column = _whole(opened).column(name)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.null_count:
            row = int(column.is_null().to_numpy().argmax())
            raise DataError(f"row {row} of {file.name} has no {name}; remove rows without labels.")
        if types.is_integer(column.type):
            return column.cast(pa.int64()).to_numpy(), None
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        # a single chunk, or none for an empty column
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _checked(opened: Any, file: Path, name: str) -> Any:
    schema = opened.schema_arrow if hasattr(opened, "schema_arrow") else opened.schema
    if name not in schema.names:
        raise DataError(f"{file} has no column {name}, unlike the first file; all files must have the same columns.")
    return opened


def read_cells(file: Path, name: str, rows: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield (row, value) of one column for ascending rows, decoding a few rows at a time.

    `counts` are the `row_groups` of the file, of which only those with the rows are read. The value is a `DataError` if
    it cannot be read, for example because that part of the file is damaged. Raises `DataError` if the file is gone.
    """
    if not len(rows):
        return
    with _readable(file):
        opened = _checked(_opened(file), file, name)
    ends = np.cumsum(counts)
    groups = np.searchsorted(ends, rows, side="right")
    for group in np.unique(groups).tolist():
        chosen = rows[groups == group]
        start = int(ends[group] - counts[group])
        last = start - 1
        try:
            for last, value in _values_in(_batches_of(opened, name, group), name, chosen, start):
                yield last, value
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            read_schema(file)  # raises an error if the whole file is gone
            if is_shortage(error):
                raise
            for row in chosen[chosen > last].tolist():
                yield row, DataError(f"row {row} of {file.name} cannot be read: {str(error) or type(error).__name__}")


def _batches_of(opened: Any, name: str, group: int) -> Iterator[Any]:
    """Yield the batches of one part of a file."""
    if hasattr(opened, "iter_batches"):
        yield from opened.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[name])
    elif hasattr(opened, "num_record_batches"):
        yield opened.get_batch(group)
    else:
        yield opened.to_batches()[group]


def _values_in(batches: Iterator[Any], name: str, chosen: np.ndarray, position: int) -> Iterator[tuple[int, Any]]:
    """Yield the values of chosen rows in batches of which the first starts at row `position`."""
    for batch in batches:
        inside = chosen[(chosen >= position) & (chosen < position + batch.num_rows)]
        for row in inside.tolist():
            yield row, batch.column(name)[row - position].as_py()
        position += batch.num_rows
        if position > chosen[-1]:
            return


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
