"""Tables with one row per test image: `--metadata FILE`, or columns in memory."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid.core.contracts import Metadata
from pellucid.core.errors import ConfigError, DataError
from pellucid.core.files import read_regular
from pellucid.core.importing import import_optional
from pellucid.core.text import printable
from pellucid.data._arrow import read_table

__all__ = ["check_metadata", "read_metadata"]

ARROW = (".parquet", ".arrow", ".feather")
SUFFIXES = (*ARROW, ".csv")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
CODE = re.compile(r"[+-]?0\d+")
"""Digits that are not a number, such as a postal code."""
WHOLE = re.compile(r"[+-]?\d{1,300}")
LARGE = re.compile(r"[+-]?\d{16,}")
"""A whole number that a float may round, so that two ids would become equal."""


def check_metadata(source: Any) -> None:
    """Check what can be checked of a table without reading it, before any data is downloaded.

    Raises `ConfigError` for a file that does not exist or is of an unsupported kind, without pyarrow, and for a value
    that is not a table.
    """
    if source is None or isinstance(source, Mapping) or _is_frame(source):
        return
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"metadata is of type {type(source).__name__}; expected a file ({', '.join(SUFFIXES)}), a dict of columns, "
            "or a data frame."
        )
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        kinds = f"{', '.join(ARROW)} or .csv"
        raise ConfigError(f"--metadata {path} {what}; pass a {kinds} file with one row per test image.")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--metadata {path} has an unsupported suffix; use {', '.join(SUFFIXES)}.")
    if path.suffix.lower() in ARROW:
        import_optional("pyarrow", f"--metadata with a {path.suffix} file", "parquet")


def read_metadata(source: Any, positions: Sequence[int] | torch.Tensor, total: int, images: str) -> Metadata:
    """Read the rows of a table that belong to the test images.

    `source` is a file, a dict of columns, or a data frame of pandas, polars or pyarrow, with one row for each of the
    `total` images of the data set's test split, or of the whole data set if it has no test split. `positions` are those
    of the test images among them; `images` describes them in messages.

    Raises `ConfigError` for a table with another number of rows, and `DataError` for a file that cannot be read.

    >>> metadata = read_metadata({"site": ["A", "B", "C"]}, [2, 0], 3, "test images")
    >>> metadata["site"].tolist()
    ['C', 'A']
    """
    check_metadata(source)
    chosen = np.asarray(positions, dtype=np.int64)
    if isinstance(source, str | Path):
        return _from_file(Path(source).expanduser(), chosen, total, images)
    names = _names(source)
    _check_names([printable(str(name)) for name in names], "the metadata")
    columns = {printable(str(name)): source[name] for name in names}
    for name, values in columns.items():
        if not hasattr(values, "__len__") or isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0:
            raise ConfigError(
                f"the metadata column {name!r} is of type {type(values).__name__}; pass one value per row."
            )
    counts = {name: len(values) for name, values in columns.items()}
    for name, count in counts.items():
        _check_rows(count, total, len(chosen), f"the metadata column {name!r}", images)
    arrays = {name: _array(values) for name, values in columns.items()}
    hashed = sha256()
    for name, values in arrays.items():
        hashed.update(f"{name!r} {values.dtype}\n".encode())
        hashed.update(repr(values.tolist()).encode("utf-8", "backslashreplace"))
    return Metadata({name: values[chosen] for name, values in arrays.items()}, {}, total, None, hashed.hexdigest())


def _is_frame(source: Any) -> bool:
    """Return True for a data frame of pandas or polars, or a table of pyarrow."""
    return hasattr(source, "__getitem__") and (hasattr(source, "columns") or hasattr(source, "column_names"))


def _names(source: Any) -> list[Any]:
    if isinstance(source, Mapping):
        return list(source)
    return list(source.column_names if hasattr(source, "column_names") else source.columns)


def _array(values: Any) -> np.ndarray:
    """Return values as a one-dimensional array; lists become arrays of objects."""
    if isinstance(values, torch.Tensor):
        return (values.float() if values.dtype == torch.bfloat16 else values).detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        return values
    plain = values.to_pylist() if hasattr(values, "to_pylist") else list(values)
    made = np.empty(len(plain), object)
    made[:] = plain
    return made


def _from_file(path: Path, chosen: np.ndarray, total: int, images: str) -> Metadata:
    flag = f"--metadata {path}"
    try:
        with path.open("rb") as file:
            checksum = file_digest(file, "sha256").hexdigest()
        content = read_regular(path) if path.suffix.lower() == ".csv" else b""
    except OSError as error:
        raise DataError(f"{flag} cannot be read: {error.strerror or error}.") from error
    names, rows, left_out, pick = _csv(content, flag) if path.suffix.lower() == ".csv" else read_table(path)
    _check_names(names, flag)
    _check_rows(rows, total, len(chosen), flag, images)
    columns: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        if name in left_out:
            continue
        values = pick(number, chosen)
        if isinstance(values, str):
            left_out[name] = values
        else:
            columns[name] = values
    return Metadata(columns, left_out, rows, path.name, checksum)


def _check_names(names: Sequence[str], place: str) -> None:
    if not names:
        raise ConfigError(f"{place} has no columns.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ConfigError(f"{place} has more than one column {repeated[0]!r}; give each column its own name.")


def _check_rows(rows: int, total: int, chosen: int, place: str, images: str) -> None:
    if rows == total:
        return
    hint = "" if rows != chosen else f" It needs rows for all of them, not just for the {chosen:,} in use."
    raise ConfigError(
        f"{place} has {rows:,} rows, but there are {total:,} {images}; expected one row for each, in their order.{hint}"
    )


def _csv(content: bytes, flag: str) -> tuple[list[str], int, dict[str, str], Any]:
    """Return the names of the columns, the number of rows, and a function that converts a column."""
    try:
        text = content.decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{flag} is not a valid CSV file in UTF-8: {error}.") from error
    if not lines:
        raise DataError(f"{flag} is empty; expected a header line with the names of the columns.")
    names, rows = lines[0], lines[1:]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(f"{flag} has {len(row)} cells in row {number}, but {len(names)} columns; repair the row.")

    def pick(column: int, chosen: np.ndarray) -> np.ndarray:
        # the kind depends on all rows, not on those of a sample
        converted = _converted([row[column] for row in rows])
        return converted[chosen]

    return names, len(rows), {}, pick


def _converted(cells: Sequence[str]) -> np.ndarray:
    """Return cells as numbers, booleans or dates if all of them are, otherwise as text; empty ones are missing.

    >>> _converted(["1.5", "", "2"]).tolist(), _converted(["02139", "10001"]).tolist()
    ([1.5, nan, 2.0], ['02139', '10001'])
    """
    cells = [cell.strip() for cell in cells]
    present = [cell for cell in cells if cell]
    made = np.empty(len(cells), object)
    if present and all(NUMBER.fullmatch(cell) for cell in present) and not any(map(CODE.fullmatch, present)):
        if not (any(map(LARGE.fullmatch, present)) and all(map(WHOLE.fullmatch, present))):
            return np.array([float(cell) if cell else np.nan for cell in cells])
        made[:] = [int(cell) if cell else None for cell in cells]
        return made
    if present and {cell.lower() for cell in present} <= {"true", "false"}:
        made[:] = [cell.lower() == "true" if cell else None for cell in cells]
        return made
    dates = _dates(cells)
    if present and dates is not None:
        return dates
    made[:] = [cell or None for cell in cells]
    return made


def _dates(cells: Sequence[str]) -> np.ndarray | None:
    """Return ISO dates and times in UTC; None if a cell is something else."""
    try:
        moments = [datetime.fromisoformat(cell) if cell else None for cell in cells]
        plain = [_in_utc(moment) for moment in moments]
    except (ValueError, OverflowError):  # no date, or one that is not within the years 1 to 9999 in UTC
        return None
    if len({moment.tzinfo is None for moment in moments if moment}) > 1:  # with and without a time zone
        return None
    return np.array([np.datetime64("NaT") if moment is None else moment for moment in plain], "datetime64[us]")


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment and moment.tzinfo else moment
