"""WebDataset shards written by the webdataset library, read in its order."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import required
from PIL import Image

from pellucid.data import Request
from pellucid.data._each import read_each
from pellucid.data._items import Converter
from pellucid.data._open import open_data

pytestmark = pytest.mark.integrations

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 7, 60)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    library = required("webdataset")
    files = [tmp_path / "shards" / f"{number:03}.tar" for number in range(6)]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        with library.TarWriter(str(file)) as writer:
            for index in range(10 * number, 10 * number + 10):
                key = f"{'deep/' * 30}{index:06}" if index % 7 == 0 else f"{index:06}"
                extra = {"json": {"width": 5}, "pyd": [index]} if index % 2 else {"txt": f"number {index}"}
                writer.write({"__key__": key, "png": PIXELS[index], "cls": int(LABELS[index]), **extra})
    return files


@pytest.mark.parametrize("form", ["folder", "braces", "star"])
def test_samples_come_in_the_order_of_the_library(shards: list[Path], form: str) -> None:
    library = required("webdataset")
    folder = shards[0].parent
    spec = {"folder": folder, "braces": f"{folder}/{{000..005}}.tar", "star": f"{folder}/*.tar"}[form]
    expected = []
    for file in shards:
        with file.open("rb") as stream:  # the library leaves the files that it opens to the garbage collector
            members = library.tariterators.tar_file_expander([{"url": file.name, "stream": stream}])
            expected += list(library.tariterators.group_by_keys(members))
    images = open_data(f"webdataset:{spec}", Request(folder)).test
    reads = list(read_each(images, range(60), Converter(None, 3, True), (3, 6, 5)))
    assert len(expected) == images.total == 60
    assert images.labels is not None
    assert images.labels.tolist() == [int(sample["cls"]) for sample in expected] == LABELS.tolist()
    for read, sample in zip(reads, expected, strict=True):
        assert not read.problem
        assert read.pixels is not None
        assert torch.equal(
            read.pixels.permute(1, 2, 0), torch.from_numpy(np.array(Image.open(io.BytesIO(sample["png"]))))
        )
        assert read.key == f"{sample['__url__']}/{sample['__key__']}"
        assert read.label == int(sample["cls"])


def test_any_shard_of_work_reads_only_its_images(shards: list[Path]) -> None:
    folder = shards[0].parent
    images = open_data(f"webdataset:{folder}", Request(folder)).test
    for file in shards[:4] + shards[5:]:
        file.unlink()  # the headers have been read already
    reads = list(read_each(images, range(42, 48), Converter(None, 3, True)))
    assert [read.label for read in reads] == LABELS[42:48].tolist()
