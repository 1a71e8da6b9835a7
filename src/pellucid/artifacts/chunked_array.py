"""An array on disk that grows chunk by chunk along its first axis: a Zarr array, format 2, uncompressed."""

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.artifacts._atomic import write_bytes, write_json
from pellucid.core.errors import SaveError

__all__ = ["ChunkedArray"]

MARKS = ".marks"
"""A file per finished chunk: it is written after the chunk, and tells what the chunk was made from."""


@dataclass(frozen=True, eq=False)
class ChunkedArray:
    """One folder: `.zarray` with shape and dtype, a file per chunk, and `.zattrs` with what the array is.

    A chunk counts once its mark is there, and the shape covers the chunks that count, so that a reader never sees half
    of one. Every write raises `SaveError` where it fails.
    """

    folder: Path
    rows_per_chunk: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def begin(
        cls, folder: Path, rows_per_chunk: int, example: np.ndarray, attributes: Mapping[str, Any]
    ) -> "ChunkedArray":
        """A new array, or the one in the folder, if it was begun with the same settings; rows are like `example`'s."""
        array = cls(folder, rows_per_chunk, example.shape[1:], example.dtype.newbyteorder("<"))
        if (folder / ".zarray").is_file():
            found = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
            expected = array._header(found["shape"][0])
            differing = [key for key in expected if found.get(key) != expected[key]]
            kept = json.loads((folder / ".zattrs").read_text(encoding="utf-8"))
            differing += [key for key in attributes if kept.get(key) != attributes[key]]
            if differing:
                raise SaveError(
                    f"{folder} was begun with another {' and another '.join(differing)}; choose another folder, or "
                    "delete it to begin anew."
                )
        elif folder.is_dir() and any(path.suffix != ".tmp" and path.name != ".zattrs" for path in folder.iterdir()):
            raise SaveError(f"{folder} holds something else; choose a folder of its own.")
        else:
            array._keep(".zattrs", dict(attributes))  # first: an array is never without
            array._keep(".zarray", array._header(0))
        return array

    @classmethod
    def open(cls, folder: str | Path) -> np.ndarray:
        """The finished rows of an array, as one NumPy array in memory."""
        path = Path(folder) / ".zarray"
        if not path.is_file():
            raise SaveError(f"{folder} holds no array: there is no {path.name}.")
        header = json.loads(path.read_text(encoding="utf-8"))
        rows, *row_shape = header["shape"]
        whole = np.empty((rows, *row_shape), dtype=header["dtype"])
        step = header["chunks"][0]
        for number in range(-(-rows // step)):
            content = (path.parent / _file(number, len(row_shape))).read_bytes()
            part = np.frombuffer(content, header["dtype"]).reshape(step, *row_shape)
            whole[number * step : (number + 1) * step] = part[: rows - number * step]
        return whole

    def mark(self, number: int) -> str | None:
        """What chunk `number` was made from; None where it is not finished."""
        path = self.folder / MARKS / str(number)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write(self, number: int, rows: np.ndarray, mark: str) -> None:
        """Write one chunk (the last one may have fewer rows), then its mark, then the shape."""
        full = np.zeros((self.rows_per_chunk, *self.row_shape), self.dtype)
        full[: len(rows)] = rows
        self._keep(_file(number, len(self.row_shape)), full.tobytes())
        self._keep(f"{MARKS}/{number}", mark.encode())
        self._keep(".zarray", self._header(number * self.rows_per_chunk + len(rows)))

    def finish(self, rows: int) -> None:
        """Set the number of rows."""
        self._keep(".zarray", self._header(rows))

    def _header(self, rows: int) -> dict[str, Any]:
        return {
            "zarr_format": 2,
            "shape": [rows, *self.row_shape],
            "chunks": [self.rows_per_chunk, *self.row_shape],
            "dtype": self.dtype.str,
            "compressor": None,
            "fill_value": 0.0,
            "order": "C",
            "filters": None,
        }

    def _keep(self, name: str, content: bytes | dict[str, Any]) -> None:
        try:
            if isinstance(content, bytes):
                write_bytes(self.folder / name, content)
            else:
                write_json(self.folder / name, content)
        except SaveError as error:
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full; free some space" if full else str(cause)
            raise SaveError(
                f"{self.folder / name} cannot be written: {reason}. Every file there is whole: the same call goes on."
            ) from cause


def _file(number: int, further_axes: int) -> str:
    return ".".join([str(number), *["0"] * further_axes])
