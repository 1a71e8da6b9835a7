"""The members of a tar archive: one pass over the headers, then access by offset."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from pellucid.core.errors import DataError

__all__ = ["Member", "Members"]

BLOCK = 512
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
LONGEST_HEADER = 1 << 20
"""Largest extended header to read, in bytes; they hold a name and a few numbers."""
WITHOUT_CONTENT = b"123456"
"""Types of members that have no content: links, devices, folders and pipes."""


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    start: int
    """Offset of its content in the archive, in bytes."""
    size: int


@dataclass
class Members:
    """Iterate over the regular files of an open archive, in their order, reading only headers.

    It reads the formats that tar programs write: v7, ustar, GNU and pax, and their long names. The standard library's
    `tarfile` takes three times as long, minutes for a million images, and silently stops at a damaged header. During
    the loop, the content of the current member can be read from the file.

    Raises `DataError` for a damaged header, a compressed archive, a sparse file, and content after the end.
    """

    file: IO[bytes]
    path: Path
    is_complete: bool = False
    """After the loop: True if the archive has its end mark, and no member is truncated."""

    def __iter__(self) -> Iterator[Member]:
        size = self.file.seek(0, 2)
        self._check_kind()
        extended: dict[str, str] = {}
        everywhere: dict[str, str] = {}
        position = 0
        while position + BLOCK <= size:
            self.file.seek(position)
            header = self.file.read(BLOCK)
            if not header[0] and not any(header):
                self._check_end(position)
                self.is_complete = True
                return
            self._check_sum(header, position)
            kind, length = header[156:157], self._number(header[124:136], position)
            start = position + BLOCK
            if kind in b"xXgLK" and kind:
                found = self._extended(kind, length, position)
                (everywhere if kind == b"g" else extended).update(found)
                position = start + _padded(length)
                continue
            options, extended = {**everywhere, **extended} if everywhere else extended, {}
            if kind == b"S" or (options and any(name.startswith("GNU.sparse.") for name in options)):
                raise DataError(f"{self.path} has a sparse file at byte {position:,}; write the archive without them.")
            length = self._parsed(options["size"], position) if "size" in options else length
            name = options["path"] if "path" in options else _name(header)
            has_content = not kind or kind not in WITHOUT_CONTENT
            if has_content and not name.endswith("/"):
                yield Member(name, start, length)
            position = start + (_padded(length) if has_content else 0)

    def _check_kind(self) -> None:
        self.file.seek(0)
        first = self.file.read(8)
        for magic, name in COMPRESSED.items():
            if first.startswith(magic):
                raise DataError(
                    f"{self.path} is compressed ({name}), so its images cannot be read in any order; decompress it to "
                    "a plain .tar. Pictures hardly shrink anyway."
                )

    def _check_sum(self, header: bytes, position: int) -> None:
        expected = self._number(header[148:156], position)
        # the field counts as eight spaces
        total = sum(header) - sum(header[148:156]) + 8 * 32
        if expected == total:
            return
        # some old programs add signed bytes
        if expected != total - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
            raise self._damaged(position)

    def _check_end(self, position: int) -> None:
        """Raise `DataError` if another archive was appended, which most programs never see."""
        self.file.seek(position)
        if any(self.file.read(1 << 16)):
            raise DataError(
                f"{self.path} has more data after its end at byte {position:,}, like two archives in one file; "
                "join them with tar --concatenate."
            )

    def _number(self, field: bytes, position: int) -> int:
        """Return a number of a header: octal digits, or binary for large ones."""
        if field[:1] == b"\x80":
            return int.from_bytes(field[1:], "big")
        digits = field.rstrip(b"\0 ")
        return self._parsed(digits, position, 8) if digits else 0

    def _parsed(self, digits: str | bytes, position: int, base: int = 10) -> int:
        try:
            number = int(digits, base)
        except ValueError as error:
            raise self._damaged(position) from error
        if number < 0:
            raise self._damaged(position)
        return number

    def _extended(self, kind: bytes, length: int, position: int) -> dict[str, str]:
        """Read what an extended header says about the next member: a long name, or pairs of keys and values."""
        content = self.file.read(length) if length <= LONGEST_HEADER else b""
        if len(content) != length:
            raise self._damaged(position)
        if kind in b"LK":
            return {"path" if kind == b"L" else "link": _text(content.partition(b"\0")[0])}
        found = {}
        while content.strip(b"\0"):
            digits, space, _ = content.partition(b" ")
            count = int(digits) if digits.isdigit() and space else 0
            record, content = content[len(digits) + 1 : count], content[count:]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise self._damaged(position)
            found[_text(key)] = _text(value[:-1])
        if "\0" in found.get("path", ""):
            raise self._damaged(position)
        return found

    def _damaged(self, position: int) -> DataError:
        return DataError(f"{self.path} is no tar archive, or damaged at byte {position:,}; write it again.")


def _padded(length: int) -> int:
    """Return a length in whole blocks."""
    return -(-length // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    # only in the format ustar; GNU's stores times there
    prefix = _text(header[345:500].partition(b"\0")[0]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
