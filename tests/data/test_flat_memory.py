"""Reading a data set shard by shard takes no more memory with each shard."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from pellucid.data import Request
from pellucid.data._each import read_each
from pellucid.data._items import Converter
from pellucid.data._open import open_data

pytestmark = pytest.mark.slow

COUNT = 200_000
FEWER = 20_000
"""Images of the sources that are slower to write and read."""


def npy(path: Path) -> str:
    np.lib.format.open_memmap(path / "a.npy", "w+", np.uint8, (COUNT, 8, 8)).flush()
    return str(path / "a.npy")


def chunks(path: Path) -> str:
    made = zarr.create_array(str(path / "a.zarr"), shape=(FEWER, 8, 8), chunks=(1000, 8, 8), dtype="uint8")
    made[:] = np.random.default_rng(0).integers(1, 9, (FEWER, 8, 8), np.uint8)
    return str(path / "a.zarr")


def tar(path: Path) -> str:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "BMP")
    with tarfile.open(path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for index in range(FEWER):
            info = tarfile.TarInfo(f"{index:06}.bmp")
            info.size = len(file.getvalue())
            archive.addfile(info, io.BytesIO(file.getvalue()))
    return str(path / "a.tar")


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell the memory of a process")
@pytest.mark.parametrize("write", [npy, chunks, tar])
def test_memory_stays_flat(tmp_path: Path, write: Callable[[Path], str]) -> None:
    images = open_data(write(tmp_path), Request(tmp_path)).test
    assert images.total is not None
    convert = Converter(None, 1, True)
    size = images.total // 40
    sizes = []
    for start in range(0, images.total, size):
        for read in read_each(images, range(start, start + size), convert, (1, 8, 8)):
            assert not read.problem
        sizes.append(resident())
    # the first shards load libraries and fill pools
    assert sizes[-1] - sizes[4] < 8_000_000
