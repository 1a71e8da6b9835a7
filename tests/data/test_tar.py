"""Headers of tar archives, compared with the standard library."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core.errors import DataError
from pellucid.data._tar import Members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], kind: str = "pax") -> Path:
    with tarfile.open(path, "w", format=FORMATS[kind]) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def file(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def contents(path: Path) -> list[tuple[str, bytes]]:
    with path.open("rb") as opened:
        return [
            (member.name, path.read_bytes()[member.start : member.start + member.size])
            for member in Members(opened, path)
        ]


names = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=60), min_size=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["gnu", "pax"]),
    parts=st.lists(st.tuples(names, st.binary(max_size=1200))),
    time=st.floats(0, 1e9),
)
def test_members_are_those_of_the_standard_library(tmp_path: Path, kind: str, parts: list, time: float) -> None:
    members = [file("/".join(name)[:900], content, mtime=time) for name, content in parts]
    path = write(tmp_path / "a.tar", members, kind)
    with tarfile.open(path) as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive if info.isfile()]
    assert contents(path) == expected


def test_long_names_of_every_format(tmp_path: Path) -> None:
    long = "/".join(["folder" * 10] * 3) + "/image.jpg"
    for kind in FORMATS:
        path = write(tmp_path / f"{kind}.tar", [file(long, b"1"), file("short", b"2")], kind)
        assert contents(path) == [(long, b"1"), ("short", b"2")]


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    others = [
        file("folder", b"", type=tarfile.DIRTYPE),
        file("link", b"", type=tarfile.SYMTYPE, linkname="x" * 200),
        file("hard", b"", type=tarfile.LNKTYPE, linkname="a"),
        file("pipe", b"", type=tarfile.FIFOTYPE),
    ]
    for kind in ("gnu", "pax"):
        path = write(tmp_path / "a.tar", [file("a", b"1"), *others, file("b", b"2" * 700)], kind)
        assert contents(path) == [("a", b"1"), ("b", b"2" * 700)]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_refused(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(DataError, match=f"is compressed .{mode[2:4]}.*decompress it"):
        contents(tmp_path / "a.tar")


@pytest.mark.parametrize("byte", [3, 130, 150, 1024, 1030, 1024 + 156])
def test_a_damaged_header_is_refused(tmp_path: Path, byte: int) -> None:
    path = write(tmp_path / "a.tar", [file("a", b"1"), file("b", b"2"), file("c", b"3")], "ustar")
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x15
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged at byte {byte // 1024 * 1024:,}"):
        contents(path)


def test_a_text_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<!DOCTYPE html>" * 100)
    with pytest.raises(DataError, match="is no tar archive"):
        contents(tmp_path / "a.tar")


def test_an_archive_that_is_cut_off_is_incomplete(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [file("a", b"1" * 600), file("b", b"2" * 600)], "ustar")
    whole = path.read_bytes()
    for length, complete, count in (
        (len(whole), True, 2),
        (3072, False, 2),
        (2700, False, 2),
        (1600, False, 1),
        (0, False, 0),
    ):
        path.write_bytes(whole[:length])
        with path.open("rb") as opened:
            members = Members(opened, path)
            assert (len(list(members)), members.is_complete) == (count, complete)


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [file("a")], "ustar")
    path.write_bytes(path.read_bytes()[:2048] + path.read_bytes())
    with pytest.raises(DataError, match="has more data after its end at byte 1,024"):
        contents(path)


def test_large_sizes_are_binary(tmp_path: Path) -> None:
    info = tarfile.TarInfo("large")
    info.size = 20_000_000_000
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 100)
    with (tmp_path / "a.tar").open("rb") as opened:
        assert [(member.name, member.size) for member in Members(opened, tmp_path / "a.tar")] == [
            ("large", 20_000_000_000)
        ]
