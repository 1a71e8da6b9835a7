"""Images in .npy and .npz files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.core.errors import DataError, UnknownName
from pellucid.data import DATASETS, RawData, Request, load_data
from pellucid.data._each import read_each
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._items import Converter
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data

BYTES = np.random.default_rng(0).integers(0, 256, (30, 5, 7), np.uint8)
LABELS = np.arange(30) % 3


def load(path: Path) -> RawData:
    return DATASETS["numpy"](Request(Path(), argument=str(path)))


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_parts(tmp_path: Path, save, names: tuple[str, ...]) -> None:
    parts = (BYTES[:20], LABELS[:20, None], BYTES[20:], LABELS[20:, None])
    save(tmp_path / "all.npz", **dict(zip(names, parts, strict=True)), classes=np.array(["a", "b", "c"]))
    raw = load(tmp_path / "all.npz")
    assert torch.equal(raw.train.pixels, torch.from_numpy(BYTES[:20, None]))
    assert torch.equal(raw.test.pixels, torch.from_numpy(BYTES[20:, None]))
    assert raw.test.labels.tolist() == LABELS[20:].tolist()
    assert (raw.classes, raw.title) == (("a", "b", "c"), "all")


def test_a_single_set_is_split_for_training_and_whole_for_inspection(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=BYTES, labels=LABELS)
    splits = load_data(str(tmp_path / "one.npz"), Request(tmp_path))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [22, 2, 6]
    assert splits.classes == ("0", "1", "2")
    assert splits.name == f"numpy:{tmp_path / 'one.npz'}"
    opened = open_data(str(tmp_path / "one.npz"), Request(tmp_path))
    assert (opened.test.total, opened.train, opened.test.name) == (30, None, splits.name)
    sample = sample_data(opened, limit=6)
    assert sample.notice == (
        "6 of 30 test images, stratified by class, seed 0; the data set has no test part, so every image counts as one"
    )
    assert sample.images.labels.bincount().tolist() == [2, 2, 2]


def test_npy_with_labels_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "faces.npy", np.repeat(BYTES[:, None], 3, 1))
    with pytest.raises(DataError, match=r"no labels for .*faces.npy; save them as .*faces_labels.npy"):
        load(tmp_path / "faces.npy")
    np.save(tmp_path / "faces_labels.npy", LABELS)
    raw = load(tmp_path / "faces.npy")
    assert raw.train.image_shape == (3, 5, 7)
    assert len(raw.train) + len(raw.test) == 30


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_chosen_rows_are_the_right_ones(tmp_path: Path, suffix: str) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=BYTES, labels=LABELS)
    np.save(tmp_path / "a.npy", BYTES)
    np.save(tmp_path / "a_labels.npy", LABELS)
    opened = open_data(str(tmp_path / f"a.{suffix}"), Request(tmp_path)).test
    for chosen in ([0], [29], [3, 4, 17], list(range(30))):
        items = list(opened.read(chosen))
        assert np.array_equal(np.stack([item.image for item in items]), BYTES[chosen])
        assert [item.label for item in items] == LABELS[chosen].tolist()


def test_channels_last_is_accepted_and_stated(tmp_path: Path) -> None:
    color = np.random.default_rng(1).integers(0, 256, (30, 5, 7, 3), np.uint8)
    np.savez(tmp_path / "last.npz", images=color, labels=LABELS)
    sample = sample_data(open_data(str(tmp_path / "last.npz"), Request(tmp_path)), limit=30)
    assert torch.equal(sample.images.pixels, torch.from_numpy(color).permute(0, 3, 1, 2))
    assert sample.notice.endswith("arrays are read as (image, height, width, channel)")


def test_floats_are_in_the_unit_range(tmp_path: Path) -> None:
    np.savez(tmp_path / "unit.npz", images=BYTES / 255, labels=LABELS)
    assert torch.equal(
        sample_data(open_data(str(tmp_path / "unit.npz"), Request(tmp_path)), limit=30).images.pixels[:, 0],
        torch.from_numpy(BYTES),
    )
    np.savez(tmp_path / "large.npz", images=BYTES.astype(np.float32), labels=LABELS)
    with pytest.raises(DataError, match=r"values from .* to 2..; images of --dataset are floats in"):
        load(tmp_path / "large.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    np.savez(tmp_path / "trap.npz", images=np.array([Trap()] * 30), labels=LABELS)
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        load(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": BYTES, "labels": LABELS}, "has the arrays pictures, labels; expected x_train, y_train"),
        ({"images": BYTES, "labels": LABELS[:9]}, r"holds int64 of shape \(9,\) for 30 images"),
        ({"images": BYTES, "labels": LABELS / 2}, "holds float64 .* one class index per image"),
        ({"images": BYTES[0], "labels": LABELS}, r"holds uint8 of shape \(5, 7\); expected images"),
        ({"images": BYTES.astype(int), "labels": LABELS}, "holds int64 of shape"),
        ({"images": np.asfortranarray(BYTES), "labels": LABELS}, "Fortran order"),
        ({"images": BYTES, "labels": LABELS, "classes": np.arange(3)}, "expected strings"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "bad.npz")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_bytes(b"no archive")
    np.save(tmp_path / "cut.npy", BYTES)
    np.save(tmp_path / "cut_labels.npy", LABELS)
    content = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-50])
    for name, message in (
        ("no.npz", "cannot be read as an .npz"),
        ("cut.npy", "ends within row 2[89] of 30"),
        ("none.npz", "there is no file"),
    ):
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)
    (tmp_path / "cut.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="is not an array"):
        load(tmp_path / "cut.npy")


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=BYTES, labels=LABELS)
    with pytest.raises(UnknownName, match="no option of this data set 'label=y'"):
        open_data(f"{tmp_path / 'a.npz'}?label=y", Request(tmp_path))
    with pytest.raises(UnknownName, match="no option of this data set 'labels'"):
        open_data(f"{tmp_path / 'a.npz'}?labels=y", Request(tmp_path))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_without_labels(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "a.npy", BYTES)
    np.savez(tmp_path / "a.npz", images=BYTES)
    path = tmp_path / f"a.{suffix}"
    images = open_data(str(path), Request(tmp_path)).test
    assert (images.total, images.labels) == (30, None)
    assert [(item.key, item.label) for item in images.read([4, 17])] == [("4", None), ("17", None)]
    with pytest.raises(DataError, match=f"no labels for .*a.{suffix}; save them as .* Only pellucid explain works"):
        sample_data(images, limit=3)
    np.save(tmp_path / "a_labels.npy", LABELS)
    np.savez(tmp_path / "a.npz", images=BYTES, labels=LABELS)
    assert open_data(str(path), Request(tmp_path)).test.labels is not None
    assert open_data(f"{path}?label=none", Request(tmp_path)).test.labels is None


def test_parts_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=BYTES, x_test=BYTES[:7])
    with pytest.raises(DataError, match="has the arrays x_train, x_test"):
        open_data(str(tmp_path / "a.npz"), Request(tmp_path))
    assert open_data(f"{tmp_path / 'a.npz'}?label=none", Request(tmp_path)).test.total == 7


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read_from_any_position(tmp_path: Path, save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.data._inflate.SHORTEST", 20_000)
    pixels = np.random.default_rng(0).integers(0, 4, (400, 16, 16), np.uint8)
    save(tmp_path / "a.npz", other=pixels[:9], images=pixels, labels=np.arange(400))
    images = open_data(str(tmp_path / "a.npz"), Request(tmp_path)).test
    draws = np.random.default_rng(1)
    for _ in range(20):
        chosen = np.sort(draws.choice(400, 12, replace=False)).tolist()
        items = list(images.read(chosen))
        assert np.array_equal(np.stack([item.image for item in items]), pixels[chosen])


def test_the_cost_of_a_compressed_row_does_not_grow_with_its_position(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pellucid.data._inflate.SHORTEST", 20_000)
    pixels = np.random.default_rng(0).integers(0, 4, (4000, 16, 16), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=pixels, labels=np.arange(4000))
    images = open_data(str(tmp_path / "a.npz"), Request(tmp_path)).test
    list(images.read([3999]))  # the first pass keeps states of the decompressor
    steps = []
    from pellucid.data._inflate import Inflated

    original = Inflated._next
    monkeypatch.setattr(Inflated, "_next", lambda *arguments: steps.append(len(part := original(*arguments))) or part)
    for index in (3900, 100, 2000, 3998):
        steps.clear()
        assert np.array_equal(next(images.read([index])).image, pixels[index])
        assert sum(steps) <= 20_000 + 2 * 65_536


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_damaged_archive_is_refused_because_any_image_may_be_wrong(tmp_path: Path, place: float) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 4, (400, 16, 16), np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    middle = int(len(content) * place)
    content[middle : middle + 5] = bytes(byte ^ 85 for byte in content[middle : middle + 5])
    (tmp_path / "a.npz").write_bytes(content)
    images = open_data(str(tmp_path / "a.npz"), Request(tmp_path)).test
    with pytest.raises(DataError, match="images in .*a.npz (does not match its checksum|is damaged)"):
        next(read_each(images, [0], Converter(None, 1, True)))


def test_rows_beyond_the_end_of_a_file_are_results(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BYTES)
    images = open_data(str(tmp_path / "a.npy"), Request(tmp_path)).test
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-40])
    problems = [read.problem for read in read_each(images, range(30), Converter(None, 1, True))]
    assert [bool(problem) for problem in problems] == [False] * 28 + [True] * 2
    (tmp_path / "a.npy").unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        next(read_each(images, [0], Converter(None, 1, True)))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_the_fingerprint_notices_other_values(tmp_path: Path, suffix: str) -> None:
    def fingerprint(folder: str, pixels: np.ndarray) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / "a.npy", pixels)
        np.savez(tmp_path / folder / "a.npz", images=pixels)
        return fingerprint_of(open_data(str(tmp_path / folder / f"a.{suffix}"), Request(tmp_path)).test)

    assert fingerprint("one", BYTES) == fingerprint("two", BYTES)
    assert fingerprint("one", BYTES) != fingerprint("two", BYTES + 1)
    assert fingerprint("one", BYTES) != fingerprint("two", BYTES[:29])
