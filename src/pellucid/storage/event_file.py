"""Event files of TensorBoard: protocol buffers, each with its length and checksums."""

import os
import platform
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from pellucid.core.errors import WriteError
from pellucid.storage.atomic import explain

__all__ = ["EventFile", "crc32c"]

POLYNOMIAL = 0x82F63B78
"""Of CRC-32C (Castagnoli), with the lowest power in the highest bit."""


class EventFile:
    """A new event file in a folder; every event is on disk when `write` returns."""

    def __init__(self, folder: Path, start_epoch: int | None) -> None:
        self._folder = folder
        # TensorBoard reads event files in the order of their names, hence the zero-padded time.
        name = f"events.out.tfevents.{time.time_ns() // 1000:017d}.{platform.node()}.{os.getpid()}"
        with self._as_write_error():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("xb")
        # every event file starts with the version of its format
        self.write(Event(file_version="brain.Event:2"))
        if start_epoch is not None:  # a START event makes TensorBoard discard earlier events from this step on
            self.write(Event(session_log=SessionLog(status=SessionLog.START), step=start_epoch))

    def write(self, event: Event) -> None:
        """Append an event, with the time of day."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        with self._as_write_error():
            self._file.write(length + _masked(length) + content + _masked(content))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # it writes what a full disk has refused again, and `write` has raised the error
            self._file.close()

    @contextmanager
    def _as_write_error(self) -> Iterator[None]:
        """Convert an `OSError` of the body to a `WriteError` that explains how to fix it."""
        try:
            yield
        except OSError as error:
            raise WriteError(explain(self._folder, error)) from error


def _masked(content: bytes) -> bytes:
    """Return the checksum of a record as the format wants it: rotated, because a record can contain checksums."""
    checksum = crc32c(content)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """Compute CRC-32C, a megabyte in 8 ms; TensorBoard's own loop over the bytes takes 0.1 s.

    A checksum is linear in the bits. So the content is cut into parts whose checksums are computed side by side, one
    byte at a time; appending zeros to a part, a linear map too, gives its share of the checksum of the whole.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    lanes = 1 << (len(content).bit_length() // 2)
    rest = len(content) % lanes
    register = 0xFFFFFFFF
    for byte in content[:rest]:
        register = int(_table()[(register ^ byte) & 0xFF]) ^ (register >> 8)
    parts = np.frombuffer(content, np.uint8, offset=rest).reshape(lanes, -1) if content else np.zeros((1, 0), np.uint8)
    # the last 32 lanes follow each bit of a register through zeros
    columns = np.zeros((parts.shape[1], lanes + 32), np.uint8)
    columns[:, :lanes] = parts.T
    registers = np.concatenate([np.zeros(lanes, np.uint32), _bits()])
    registers[0] = register
    for column in columns:
        registers = _table()[(registers ^ column) & 0xFF] ^ (registers >> 8)
    checksums, moved = registers[:lanes], registers[lanes:]
    while len(checksums) > 1:  # join neighbors, until one is left
        checksums = _apply(moved, checksums[0::2]) ^ checksums[1::2]
        moved = _apply(moved, moved)
    return int(checksums[0]) ^ 0xFFFFFFFF


def _apply(columns: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """Apply a linear map of 32 bits, given by its values for each single bit."""
    is_set = (registers[:, None] & _bits()) != 0
    return np.bitwise_xor.reduce(np.where(is_set, columns, np.uint32(0)), axis=1)


@cache
def _bits() -> np.ndarray:
    return np.uint32(1) << np.arange(32, dtype=np.uint32)


@cache
def _table() -> np.ndarray:
    """Return the register after each byte, starting from zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table
