"""Images in Zarr arrays and groups."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from pellucid.core.errors import DataError, UnknownName
from pellucid.data import Request, load_data
from pellucid.data._each import read_each
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._items import Converter
from pellucid.data._lazy import LazyImages
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data

CONVERT = Converter(None, 3, True)
PIXELS = np.random.default_rng(0).integers(1, 256, (20, 3, 4, 5), np.uint8)
LABELS = np.arange(20) % 3


def array(path: Path, pixels: np.ndarray = PIXELS, chunks: tuple[int, ...] = (6, 3, 4, 3), **options: Any) -> Path:
    made = zarr.create_array(str(path), shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, **options)
    made[:] = pixels
    return path


def group(path: Path, kind: int = 3, **arrays: np.ndarray) -> Path:
    made = zarr.open_group(str(path), mode="w", zarr_format=kind)
    for name, values in arrays.items():
        made.create_array(name, data=values)
    return path


def opened(spec: object) -> LazyImages:
    return open_data(f"zarr:{spec}", Request(Path())).test


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": (12, 3, 4, 6)}])
def test_chosen_rows_of_an_array(tmp_path: Path, options: dict[str, Any]) -> None:
    images = opened(array(tmp_path / "a.zarr", **options))
    assert (images.total, images.labels, images.title) == (20, None, "a")
    for chosen in ([0], [19], [0, 5, 6, 17], range(4, 14), range(20)):
        items = list(images.read(chosen))
        assert np.array_equal(np.stack([item.image for item in items]), PIXELS[list(chosen)])
        assert [(item.key, item.label) for item in items] == [(str(index), None) for index in chosen]
    with pytest.raises(DataError, match="there are no labels for .*save a group with the arrays images and labels"):
        load_data(f"zarr:{tmp_path / 'a.zarr'}", Request(tmp_path))


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_a_group_with_labels(tmp_path: Path, kind: int, names: tuple[str, str]) -> None:
    path = group(tmp_path / "g.zarr", kind, **{names[0]: PIXELS, names[1]: LABELS})
    zarr.open_group(str(path)).attrs["classes"] = ["ant", "bee", "cat"]
    images = open_data(str(path), Request(tmp_path)).test
    assert (images.classes, images.name) == (("ant", "bee", "cat"), f"zarr:{path}")
    assert images.labels is not None
    assert images.labels.tolist() == LABELS.tolist()
    sample = sample_data(images, limit=20)
    assert torch.equal(sample.images.pixels, torch.from_numpy(PIXELS))
    splits = load_data(str(path), Request(tmp_path))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 20
    assert opened(f"{path}?label=none").labels is None


def test_a_group_with_training_and_test_arrays(tmp_path: Path) -> None:
    path = group(tmp_path / "g.zarr", x_train=PIXELS, y_train=LABELS, x_test=PIXELS[:5], y_test=LABELS[:5])
    both = open_data(str(path), Request(tmp_path))
    assert both.train is not None
    assert (both.train.total, both.test.total) == (20, 5)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_floats_of_every_kind_and_channels_last(tmp_path: Path, dtype: str) -> None:
    pixels = np.repeat(PIXELS / 255, 2, axis=2).astype(dtype)
    images = opened(array(tmp_path / "a.zarr", pixels.transpose(0, 2, 3, 1), (6, 8, 5, 3)))
    assert "arrays are read as (image, height, width, channel)" in images.remark
    reads = list(read_each(images, range(3, 9), CONVERT, (3, 8, 5)))
    assert not any(read.problem for read in reads)
    found = torch.stack([read.pixels for read in reads])
    assert torch.equal(found, torch.from_numpy(pixels[3:9].astype(np.float32)))


def test_one_chunk_is_decoded_at_a_time_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = opened(array(tmp_path / "a.zarr"))
    read = []
    original = zarr.Array.__getitem__
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda self, part: read.append(part) or original(self, part))
    list(images.read([1, 4, 5, 12, 13]))
    assert read == [slice(1, 6), slice(12, 14)]


def chunk(path: Path, *place: int) -> Path:
    return path / zarr.open(str(path), mode="r").metadata.encode_chunk_key(place)


@pytest.mark.parametrize("kind", [2, 3])
def test_images_of_missing_and_damaged_chunks_are_results(tmp_path: Path, kind: int) -> None:
    path = array(tmp_path / "a.zarr", zarr_format=kind)
    images = opened(path)
    chunk(path, 1, 0, 0, 1).unlink()
    chunk(path, 2, 0, 0, 0).write_bytes(b"damaged")
    reads = list(read_each(images, range(20), CONVERT, (3, 4, 5)))
    assert [bool(read.problem) for read in reads] == [False] * 6 + [True] * 12 + [False] * 2
    assert "image 7 of" in reads[7].problem
    assert "which is missing; copy it again, or pass ?missing=fill if its pixels are all 0" in reads[7].problem
    assert "image 13 of" in reads[13].problem
    filled = list(read_each(opened(f"{path}?missing=fill"), range(6, 8), CONVERT))
    assert not filled[0].problem
    assert filled[0].pixels is not None
    assert filled[0].pixels[..., 3:].eq(0).all()
    assert torch.equal(filled[0].pixels[..., :3], torch.from_numpy(PIXELS[6, ..., :3]))


def test_an_array_that_is_gone_raises(tmp_path: Path) -> None:
    path = array(tmp_path / "a.zarr")
    reads = read_each(opened(path), range(20), CONVERT)
    assert not next(reads).problem
    shutil.rmtree(path)
    with pytest.raises(DataError, match="is gone; restore it"):
        list(reads)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(4, 3, 3), dtype="uint8", zarr_format=2)
    header = json.loads((tmp_path / "a.zarr" / ".zarray").read_text())
    for part in ({"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}, {"dtype": "|O"}):
        (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(header | part))
        with pytest.raises(DataError, match="pickled objects, which are never loaded|cannot be opened as Zarr"):
            opened(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": PIXELS}, "has the arrays pictures; expected x_train"),
        ({}, r"has the arrays \(none\)"),
        ({"images": PIXELS[0, 0]}, r"holds uint8 of shape \(4, 5\); expected images"),
        ({"images": PIXELS.astype(int)}, "holds int64"),
        ({"images": PIXELS, "labels": LABELS[:9]}, r"has the shape \(9,\); expected one class index per image"),
        ({"images": PIXELS, "labels": LABELS / 2}, "holds float64"),
        ({"images": PIXELS, "labels": PIXELS}, r"has the shape \(20, 3, 4, 5\)"),
        ({"images": PIXELS, "x": PIXELS}, "has the arrays images, x"),
    ],
)
def test_unusable_groups_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(group(tmp_path / "g.zarr", **arrays))


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no Zarr array or group .*none.zarr"):
        opened(tmp_path / "none.zarr")
    (tmp_path / "text.zarr").mkdir()
    (tmp_path / "text.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="cannot be opened as Zarr"):
        opened(tmp_path / "text.zarr")
    path = array(tmp_path / "a.zarr")
    for option in ("missing=zero", "labels=x", "label=y"):
        with pytest.raises(UnknownName, match="no option of this data set"):
            opened(f"{path}?{option}")


def test_the_fingerprint_is_that_of_metadata_and_sizes(tmp_path: Path) -> None:
    path = array(tmp_path / "a.zarr")
    before = fingerprint_of(opened(path))
    shutil.copytree(path, tmp_path / "b" / "other.zarr")
    assert fingerprint_of(opened(tmp_path / "b" / "other.zarr")) == before
    assert fingerprint_of(opened(array(tmp_path / "c.zarr", chunks=(5, 3, 4, 5)))) != before
    file = chunk(path, 1, 0, 0, 0)
    file.write_bytes(file.read_bytes() + b"\0")
    assert fingerprint_of(opened(path)) != before


def test_zarr_is_imported_only_when_it_is_used() -> None:
    code = "import sys, pellucid.data.zarr, pellucid.data._open; sys.exit('zarr' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
