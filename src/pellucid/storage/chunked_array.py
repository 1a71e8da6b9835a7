"""An array on disk that grows chunk by chunk along its first axis, as an uncompressed Zarr array (format 2)."""

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import SaveError
from pellucid.storage.atomic import write_bytes, write_json

__all__ = ["ChunkedArray"]

MARKS = ".marks"
"""Folder with one file per finished chunk, written after the chunk, that identifies the chunk's inputs."""


@dataclass(frozen=True, eq=False)
class ChunkedArray:
    """A folder with `.zarray` (shape and dtype), `.zattrs` (attributes) and one file per chunk.

    A chunk is complete once its mark exists, and the shape covers complete chunks only, so that readers never see a
    partial chunk. Failed writes raise `SaveError`.
    """

    folder: Path
    rows_per_chunk: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def begin(
        cls, folder: Path, rows_per_chunk: int, example: np.ndarray, attributes: Mapping[str, Any]
    ) -> "ChunkedArray":
        """Create an array with rows like those of `example`, or continue the one in the folder.

        Raises `SaveError` if the existing array has different settings, or if the folder holds anything else.
        """
        # little-endian on every machine
        array = cls(folder, rows_per_chunk, example.shape[1:], example.dtype.newbyteorder("<"))
        if (folder / ".zarray").is_file():
            existing = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
            expected = array._header(existing["shape"][0])
            differing = [key for key in expected if existing.get(key) != expected[key]]
            kept = array.attributes
            differing += [key for key in attributes if kept.get(key) != attributes[key]]
            if differing:
                raise SaveError(
                    f"{folder} holds an array with different settings ({', '.join(differing)}); choose another folder, "
                    "or delete this one to start over."
                )
        # an interrupted call can leave `.zattrs` without `.zarray`, and temporary files
        elif folder.is_dir() and any(path.suffix != ".tmp" and path.name != ".zattrs" for path in folder.iterdir()):
            raise SaveError(f"{folder} contains other files; choose an empty folder.")
        else:
            array._keep(".zattrs", dict(attributes))  # before .zarray: an array always has attributes
            array._keep(".zarray", array._header(0))
        return array

    @classmethod
    def open(cls, folder: str | Path) -> np.ndarray:
        """Load the finished rows of an array into one NumPy array."""
        path = Path(folder) / ".zarray"
        if not path.is_file():
            raise SaveError(f"{folder} is not an array: it contains no {path.name}.")
        header = json.loads(path.read_text(encoding="utf-8"))
        rows, *row_shape = header["shape"]
        whole = np.empty((rows, *row_shape), dtype=header["dtype"])
        step = header["chunks"][0]
        for number in range(-(-rows // step)):  # rows / step, rounded up
            content = (path.parent / _file(number, len(row_shape))).read_bytes()
            part = np.frombuffer(content, header["dtype"]).reshape(step, *row_shape)
            whole[number * step : (number + 1) * step] = part[: rows - number * step]
        return whole

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the array as a whole, as in `.zattrs`."""
        kept: dict[str, Any] = json.loads((self.folder / ".zattrs").read_text(encoding="utf-8"))
        return kept

    def note(self, **attributes: Any) -> None:
        """Add attributes that are known only once the first chunk has been computed."""
        self._keep(".zattrs", self.attributes | attributes)

    def mark(self, number: int) -> str | None:
        """Return the mark of chunk `number`, which identifies its inputs; None if the chunk is not finished."""
        path = self.folder / MARKS / str(number)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write(self, number: int, rows: np.ndarray, mark: str) -> None:
        """Write a chunk, then its mark, then the new shape; the last chunk may have fewer rows."""
        # Zarr stores every chunk at full size; the shape in .zarray cuts off the padding.
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
        # the message of `write_bytes` names flags of a run, such as --resume, which do not apply here
        except SaveError as error:
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full; free some space" if full else str(cause)
            raise SaveError(
                f"{self.folder / name} cannot be written: {reason}. Files written earlier are intact; repeat the call "
                "to continue."
            ) from cause


def _file(number: int, further_axes: int) -> str:
    # Zarr names a chunk by its position along every axis; only the first axis has several
    return ".".join([str(number), *["0"] * further_axes])
