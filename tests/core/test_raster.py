"""Pictures of unknown origin: only raster formats that Pillow decodes itself, up to a limit."""

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from pellucid.core.errors import DataError
from pellucid.core.raster import FORMATS, MOST_PIXELS, TooLarge, open_raster
from pellucid.data import Request
from pellucid.data.folder import folder

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_raster_formats_are_read(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(file, kind)
    picture = open_raster(file)
    assert (picture.format, picture.size) == (kind, (5, 4))
    assert picture.convert("RGB").getpixel((0, 0))[0] > 200


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "SGI", "DDS"])
def test_other_formats_are_no_pictures(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    with pytest.raises(UnidentifiedImageError):
        open_raster(file)


def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    assert open_raster(io.BytesIO(png_that_claims(5000, MOST_PIXELS // 5000))).width == 5000
    for size in ((5001, MOST_PIXELS // 5000), (2**30, 2**30)):
        with pytest.raises(TooLarge):
            open_raster(io.BytesIO(png_that_claims(*size)))
    limit = Image.MAX_IMAGE_PIXELS
    assert open_raster(io.BytesIO(png_that_claims(30_000, 30_000)), most_pixels=900_000_000).width == 30_000
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="3×2 pixels; at most 5e-06 megapixels"):
        open_raster(io.BytesIO(png_that_claims(3, 2)), most_pixels=5)


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (1200, 900), number).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match=r"0\.png cannot be read as an image.*1200×900.*raise --max-megapixels"):
        folder(Request(tmp_path, argument=str(tmp_path), image_size=8, max_megapixels=1))
    raw = folder(Request(tmp_path, argument=str(tmp_path), image_size=8, max_megapixels=2))
    assert len(raw.train) + len(raw.test) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(OSError, match="not a regular file"):
        open_raster(tmp_path / "0.png")


@pytest.mark.parametrize("content", [EPS, png_that_claims(40_000, 4_000)], ids=["EPS", "bomb"])
def test_a_folder_with_a_disguised_picture_is_refused_and_no_program_starts(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), number).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "a" / "9.png").write_bytes(content)
    with pytest.raises(DataError, match=r"9\.png cannot be read as an image"):
        folder(Request(tmp_path, argument=str(tmp_path / "images"), image_size=8))
    assert not (tmp_path / "called").exists()
