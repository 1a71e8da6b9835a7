"""Random access to deflated data: states of the decompressor at regular distances, to continue from."""

import zlib
from bisect import bisect_right
from pathlib import Path
from typing import IO, Any

from pellucid.core.errors import DataError

__all__ = ["Inflated"]

PIECE = 1 << 16
"""Bytes decompressed at a time."""
MOST_POINTS = 1000
"""Number of states to keep, of about 50 kB each, …"""
SHORTEST = 1 << 24
"""… at least this many bytes apart."""


class Inflated:
    """A deflated part of a file, such as a compressed member of an .npz archive.

    The first access decompresses everything before it, and keeps states on the way. From then on, an access costs at
    most the distance to the last state, wherever it is.
    """

    def __init__(self, path: Path, start: int, compressed: int, size: int) -> None:
        """Hold where the deflated data starts in the file, its length in bytes, and its size when inflated."""
        self.path, self.start, self.compressed = path, start, compressed
        self.distance = max(SHORTEST, size // MOST_POINTS)
        self.positions = [0]
        """Inflated positions of the states, ascending."""
        self.states: list[tuple[Any, int]] = [(zlib.decompressobj(-zlib.MAX_WBITS), 0)]
        """A decompressor, which is only used through copies, and the number of bytes that it was given."""
        self.current: tuple[int, Any, int] = (0, self.states[0][0].copy(), 0)
        self.end: int | None = None
        """Position at which the data turned out to be damaged or cut off."""

    def read(self, file: IO[bytes], position: int, size: int) -> bytes:
        """Read inflated bytes; returns fewer where the data is damaged or cut off."""
        if self.end is not None and position >= self.end:
            return b""
        number = bisect_right(self.positions, position) - 1
        if not self.positions[number] <= self.current[0] <= position:
            state, given = self.states[number]
            self.current = self.positions[number], state.copy(), given
        parts = []
        stop = position + size
        while self.current[0] < stop and self.end is None:
            before = self.current[0]
            part = self._next(file, min(PIECE, (position if before < position else stop) - before))
            if before >= position:
                parts.append(part)
        return b"".join(parts)

    def _next(self, file: IO[bytes], most: int) -> bytes:
        """Inflate at most `most` bytes from the current position on."""
        position, state, given = self.current
        part = b""
        try:
            while not part and not state.eof:
                data = state.unconsumed_tail
                if not data:
                    file.seek(self.start + given)
                    data = file.read(min(PIECE, self.compressed - given))
                    given += len(data)
                part = state.decompress(data, most)
                if not data and not part:
                    break
        except zlib.error:
            self.end = position
            return b""
        if not part:
            self.end = position
        position += len(part)
        self.current = position, state, given
        if position >= self.positions[-1] + self.distance:
            self.positions.append(position)
            self.states.append((state.copy(), given))
        return part


def check_inflatable(path: Path, member: str, method: int) -> None:
    """Raise `DataError` for a member of an archive that is neither stored nor deflated."""
    if method not in (0, 8):
        raise DataError(f"{member} in {path} has the compression method {method}; write it with np.savez_compressed.")
