"""Arrays in .npy and .npz files, read row by row from any position."""

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pellucid.core.errors import DataError
from pellucid.core.files import is_shortage
from pellucid.data._inflate import Inflated

__all__ = ["Array", "arrays_in"]

MOST_LABELS = 1_000_000_000
"""Largest size of an array of labels, in bytes."""
PROBES = 64
"""Number of places whose bytes are part of the fingerprint of an .npy file, because it has no checksum."""
PROBE_BYTES = 256


@dataclass(frozen=True)
class Array:
    """An array in a file, read row by row.

    The file is not memory-mapped, because reading a mapped file that was truncated, or whose disk fails, kills the
    process.
    """

    path: Path
    member: str | None
    """Name in the .npz archive; None for an .npy file."""

    @property
    def name(self) -> str:
        """The array's name in messages."""
        return str(self.path) if self.member is None else f"{self.member.removesuffix('.npy')} in {self.path}"

    @cached_property
    def header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype."""
        return self._header[:2]

    @cached_property
    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        """Shape, dtype and the number of bytes before the values."""
        with self._opened() as file:
            try:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, is_fortran, dtype = read(file)
                start = file.tell()
            except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
                raise DataError(f"{self.name} is not an array: {error}.") from error
        if dtype.hasobject:
            raise DataError(f"{self.name} holds Python objects, which are never loaded; save numbers or strings.")
        if is_fortran and len(shape) > 1:
            raise DataError(f"{self.name} is in Fortran order; save np.ascontiguousarray(…).")
        return shape, dtype, start

    def rows(self, indices: Sequence[int]) -> Iterator[np.ndarray | DataError]:
        """Yield the rows at ascending indices, or the error of one that cannot be read.

        Raises `DataError` if the file is gone.
        """
        shape, dtype, start = self._header
        size = math.prod(shape[1:]) * dtype.itemsize
        try:
            source, offset = self._source
            file = self.path.open("rb")
        except OSError as error:
            if is_shortage(error):
                raise
            raise DataError(f"{self.path} cannot be read any more: {error.strerror or error}.") from error
        with file:
            for index in indices:
                try:
                    content = _read(file, source, offset, start + index * size, size)
                except OSError as error:
                    if is_shortage(error):
                        raise
                    yield DataError(f"row {index} of {self.name} cannot be read: {error.strerror or error}.")
                    continue
                if len(content) == size:
                    yield np.frombuffer(content, dtype).reshape(shape[1:])
                else:
                    yield DataError(f"{self.name} ends within row {index} of {shape[0]}; write the file again.")

    def whole(self) -> np.ndarray:
        """Return a small array, such as labels. Raises `DataError` for a large one."""
        shape, dtype, start = self._header
        size = math.prod(shape) * dtype.itemsize
        if size > MOST_LABELS:
            raise DataError(f"{self.name} has the shape {shape}; expected one label per image.")
        try:
            source, offset = self._source
            with self.path.open("rb") as file:
                content = _read(file, source, offset, start, size)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}.") from error
        if len(content) != size:
            raise DataError(f"{self.name} is cut off; write the file again.")
        return np.frombuffer(content, dtype).reshape(shape)

    def contents(self) -> Iterator[bytes]:
        """Yield what identifies the array: shape, type, and its checksum in an archive, or else some of its bytes."""
        shape, dtype, _ = self._header
        yield f"{shape} {dtype.str} {self.path.stat().st_size if self.member is None else ''}".encode()
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive:
                yield str(archive.getinfo(self.member).CRC).encode()
            return
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            for position in np.linspace(0, max(size - PROBE_BYTES, 0), PROBES).astype(int).tolist():
                file.seek(position)
                yield file.read(PROBE_BYTES)

    @cached_property
    def _source(self) -> tuple[Inflated | None, int]:
        """Return the inflated member, or None and the offset at which the bytes are stored as they are."""
        if self.member is None:
            return None, 0
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(self.member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.name} has an unusual compression; write the file with np.savez_compressed.")
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
            # the local header has lengths of its own
            lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            start = info.header_offset + 30 + lengths
            if info.compress_type == zipfile.ZIP_STORED:
                return None, start
            return Inflated(self.name, file, (start, info.compress_size), info.file_size, info.CRC), 0

    def _opened(self) -> Any:
        try:
            if self.member is None:
                return self.path.open("rb")
            return zipfile.ZipFile(self.path).open(self.member)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self.name} cannot be read: {error}.") from error


def _read(file: IO[bytes], source: Inflated | None, offset: int, position: int, size: int) -> bytes:
    if source is not None:
        return source.read(file, position, size)
    file.seek(offset + position)
    return file.read(size)


def arrays_in(path: Path) -> dict[str, Array]:
    """Return the arrays in a file by name: those of an archive, or `images` and perhaps `labels` of an .npy file."""
    if path.suffix.lower() == ".npy":
        labels = path.with_name(f"{path.stem}_labels.npy")
        images = {"images": Array(path, None)}
        return {**images, "labels": Array(labels, None)} if labels.is_file() else images
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}.") from error
    return {name.removesuffix(".npy"): Array(path, name) for name in members}
