"""Random access to deflated data: states of the decompressor at regular distances, to continue from."""

import zlib
from bisect import bisect_right
from typing import IO, Any

from pellucid.core.errors import DataError

__all__ = ["Inflated"]

PIECE = 1 << 16
"""Bytes decompressed at a time."""
MOST_STATES = 1000
"""Number of states to keep, of about 50 kB each, …"""
SHORTEST = 1 << 24
"""… at least this many bytes apart."""


class Inflated:
    """A deflated part of a file, such as a compressed member of an .npz archive.

    Everything is decompressed once, to verify its checksum and to keep states on the way. From then on, an access only
    decompresses the data between the nearest earlier state and the requested position.
    """

    def __init__(self, name: str, file: IO[bytes], span: tuple[int, int], size: int, crc: int) -> None:
        """Read the deflated data at `span` (offset and length), which has `size` bytes when inflated.

        Raises `DataError` if the data is damaged: it may then be wrong anywhere.
        """
        self.start, self.length = span
        self.positions = [0]
        """Inflated positions of the states, ascending."""
        self.states: list[tuple[Any, int]] = [(zlib.decompressobj(-zlib.MAX_WBITS), 0)]
        """Decompressors, used through copies, and the number of bytes that each was given."""
        self._current: tuple[int, Any, int] = (0, self.states[0][0].copy(), 0)
        distance, found, total = max(SHORTEST, size // MOST_STATES), 0, 0
        try:
            while part := self._next(file, PIECE):
                found, total = zlib.crc32(part, found), total + len(part)
                position, state, given = self._current
                if position >= self.positions[-1] + distance:
                    self.positions.append(position)
                    self.states.append((state.copy(), given))
        except zlib.error as error:
            raise DataError(f"{name} is damaged ({error}); write the file again.") from error
        if (found, total) != (crc, size):
            raise DataError(f"{name} does not match its checksum, so any image may be wrong; write the file again.")

    def read(self, file: IO[bytes], position: int, size: int) -> bytes:
        """Read inflated bytes; returns fewer at the end of the data."""
        number = bisect_right(self.positions, position) - 1
        if not self.positions[number] <= self._current[0] <= position:
            state, given = self.states[number]
            self._current = self.positions[number], state.copy(), given
        parts = []
        stop = position + size
        while (before := self._current[0]) < stop:
            part = self._next(file, min(PIECE, (position if before < position else stop) - before))
            if not part:
                break
            if before >= position:
                parts.append(part)
        return b"".join(parts)

    def _next(self, file: IO[bytes], most: int) -> bytes:
        """Inflate at most `most` bytes from the current position on; returns none at the end."""
        position, state, given = self._current
        part = b""
        while not part and not state.eof:
            data = state.unconsumed_tail
            if not data:
                file.seek(self.start + given)
                data = file.read(min(PIECE, self.length - given))
                given += len(data)
            part = state.decompress(data, most)
            if not data and not part:
                break
        self._current = position + len(part), state, given
        return part
