"""WebDataset shards, written with the standard library; `tests/integrations` reads those of the webdataset library."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.core.errors import DataError, UnknownName
from pellucid.data import Request, load_data
from pellucid.data._each import read_each
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._items import Converter
from pellucid.data._lazy import LazyImages
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data

CONVERT = Converter(None, 3, True)
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 4, 5, 3), np.uint8)


def picture(index: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(file, kind)
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(start: int, stop: int) -> dict[str, bytes]:
    members = {}
    for index in range(start, stop):
        members |= {f"{index:04}.png": picture(index), f"{index:04}.cls": str(index % 3).encode()}
    return members


def opened(spec: object) -> LazyImages:
    return open_data(f"webdataset:{spec}", Request(Path())).test


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(3):
        shard(tmp_path / "shards" / f"a-{number:03}.tar", samples(10 * number, 10 * number + 10))
    return tmp_path / "shards"


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/a-{000..002}.tar", "/a-00{0,1,2}.tar", "/a-00[0-2].tar"])
def test_shards_are_one_data_set(shards: Path, pattern: str) -> None:
    images = opened(f"{shards}{pattern}")
    assert (images.total, images.title, images.unlabeled) == (30, "shards", "")
    assert images.labels is not None
    assert images.labels.tolist() == [index % 3 for index in range(30)]
    for chosen in ([0], [29], [3, 9, 10, 25], range(8, 12), range(30)):
        items = list(images.read(chosen))
        assert np.array_equal(np.stack([np.asarray(item.image) for item in items]), PIXELS[list(chosen)])
        assert [item.key for item in items] == [f"a-{index // 10:03}.tar/{index:04}" for index in chosen]
        assert [item.label for item in items] == [index % 3 for index in chosen]


def test_braces_keep_their_order(shards: Path) -> None:
    items = opened(f"{shards}/a-{{002..001}}.tar").read([0, 10])
    assert [item.key for item in items] == ["a-002.tar/0020", "a-001.tar/0010"]


def test_training_and_test_shards(tmp_path: Path) -> None:
    shard(tmp_path / "pets-train-0.tar", samples(0, 20))
    shard(tmp_path / "pets-val-0.tar", samples(20, 30))
    both = open_data(f"webdataset:{tmp_path}", Request(tmp_path))
    assert both.train is not None
    assert (both.train.total, both.test.total) == (20, 10)
    splits = load_data(f"webdataset:{tmp_path}?split=validation", Request(tmp_path))
    assert (len(splits.train) + len(splits.validation), len(splits.test), splits.classes) == (20, 10, ("0", "1", "2"))
    assert opened(f"{tmp_path}?split=train").total == 20


def test_a_single_file_needs_no_prefix(tmp_path: Path) -> None:
    path = shard(tmp_path / "one.tar", samples(0, 5))
    images = open_data(str(path), Request(tmp_path)).test
    assert (images.total, images.title, images.name) == (5, "one", f"webdataset:{path}")


LABELS = {
    "cls": {"cls": b"2"},
    "a line": {"cls": b" 2\n"},
    "label": {"label": b"2"},
    "text": {"txt": b"2"},
    "json": {"json": b'{"label": 2, "width": 5}'},
    "the first of several": {"json": b'{"label": 1}', "txt": b"0", "cls": b"2"},
    "a caption is no label": {"txt": b"2 dogs", "json": b'{"label": 2}'},
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = shard(tmp_path / "a.tar", {"0.png": picture(0)} | {f"0.{name}": one for name, one in LABELS[kind].items()})
    images = opened(path)
    assert images.labels is not None
    assert images.labels.tolist() == [2]


@pytest.mark.parametrize("content", [b"cat", b"1.5", b"-2", b"", b"9" * 30, b"[0, 1]", "²".encode(), b"true", b"1_0"])
def test_a_label_that_is_no_index_is_reported(tmp_path: Path, content: bytes) -> None:
    path = shard(tmp_path / "a.tar", {"0.png": picture(0), "0.cls": content, "1.png": picture(1), "1.cls": b"1"})
    images = opened(path)
    assert "1 of 2 samples with a label that is no class index, such as a.tar/0" in images.remark
    reads = list(read_each(images, range(2), CONVERT))
    assert [read.label for read in reads] == [None, 1]
    assert "the sample a.tar/0 has a label that is no class index" in reads[0].problem
    with pytest.raises(DataError, match="1 of 2 images .* no label or a negative one, the first at index 0"):
        load_data(f"webdataset:{path}", Request(tmp_path))
    assert [read.problem for read in read_each(opened(f"{path}?label=none"), range(2), CONVERT)] == ["", ""]


@pytest.mark.parametrize("content", [b"{", b'{"label": "cat"}', b'{"label": true}', b'{"label": 1.0}', b"[" * 100_000])
def test_json_without_a_class_index_is_reported(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"labels of .* are no class indices, as a.tar/0 shows.*label=none"):
        opened(shard(tmp_path / "a.tar", {"0.png": picture(0), "0.json": content}))


def test_samples_without_image_or_label_are_reported_by_name(tmp_path: Path) -> None:
    members = {
        "0.png": picture(0),
        "0.cls": b"1",
        "1.cls": b"1",
        "1.txt": b"a dog",
        "2.png": picture(2),
        "2.txt": b"cat",
    }
    images = opened(shard(tmp_path / "a.tar", members))
    assert "1 of 3 samples without an image, such as a.tar/1" in images.remark
    assert "1 of 3 samples without a label, such as a.tar/2" in images.remark
    reads = list(read_each(images, range(3), CONVERT))
    assert [(read.key, read.label, bool(read.problem)) for read in reads] == [
        ("a.tar/0", 1, False),
        ("a.tar/1", None, True),
        ("a.tar/2", None, False),
    ]
    assert reads[1].problem.startswith("the sample a.tar/1 has no image")


def test_unlabeled_shards(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"0.png": picture(0), "1.png": picture(1)})
    images = opened(path)
    assert (images.total, images.labels) == (2, None)
    assert [item.label for item in images.read(None)] == [None, None]
    for use in (lambda: load_data(f"webdataset:{path}", Request(tmp_path)), lambda: sample_data(images, limit=3)):
        with pytest.raises(DataError, match="no sample of .* has a label: expected a member cls, label, txt or json"):
            use()


def test_members_are_grouped_by_the_first_dot_of_their_name(tmp_path: Path) -> None:
    members = {
        "./v1.0/0.JPG": picture(0, "JPEG"),
        "./v1.0/0.seg.png": picture(9),
        "./v1.0/0.cls": b"1",
        "./v1.0/._1.jpg": b"of macOS",
        "__meta__/1.jpg": b"reserved",
        "README": b"without a dot",
        "x.pyd": b"pickled",
        "x.png": picture(1),
        "x.cls": b"0",
    }
    images = opened(shard(tmp_path / "a.tar", members))
    assert images.remark.count("such as") == 0
    assert [(item.key, item.label) for item in images.read(None)] == [("a.tar/./v1.0/0", 1), ("a.tar/x", 0)]
    assert np.array_equal(np.asarray(next(images.read([1])).image), PIXELS[1])


def test_several_images_need_a_choice(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"0.png": picture(0), "0.jpg": picture(1, "JPEG"), "0.mask.png": picture(2)})
    with pytest.raises(DataError, match=r"the sample 0 of a.tar has several images \(png, jpg\).*\?image=png"):
        opened(path)
    for name, index in (("png", 0), ("mask.png", 2)):
        (item,) = opened(f"{path}?image={name}").read(None)
        assert np.array_equal(np.asarray(item.image), PIXELS[index])
    with pytest.raises(DataError, match="no sample of .* has a member with the suffix gif"):
        opened(f"{path}?image=gif")


@pytest.mark.parametrize("suffix", ["pyd", "pkl", "pickle"])
def test_nothing_is_unpickled(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.loads", fail)
    monkeypatch.setattr("pickle.load", fail)
    path = shard(tmp_path / "a.tar", {"0.png": picture(0), f"0.{suffix}": b"\x80\x04K\x02."})
    assert opened(path).labels is None
    assert next(opened(path).read([0])).label is None


def test_a_member_that_is_cut_off_or_damaged_is_a_result(shards: Path) -> None:
    path = shards / "a-001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(picture(13), b"\0" * len(picture(13)))[: whole.index(picture(19)) + 40])
    images = opened(shards)
    assert images.total == 30
    assert "a-001.tar may be cut off" in images.remark
    problems = {read.key: read.problem for read in read_each(images, range(30), CONVERT) if read.problem}
    assert list(problems) == ["a-001.tar/0013", "a-001.tar/0019"]
    assert "cannot be read as an image" in problems["a-001.tar/0013"]
    assert f"cut off after 40 of {len(picture(19))} bytes" in problems["a-001.tar/0019"]


def test_a_shard_that_is_gone_raises(shards: Path) -> None:
    images = opened(shards)
    reads = read_each(images, range(8, 12), CONVERT)
    assert not next(reads).problem
    (shards / "a-001.tar").unlink()
    assert not next(reads).problem
    with pytest.raises(DataError, match=r"the shard .*a-001.tar cannot be read any more"):
        next(reads)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "has no samples"),
        ([("0.cls", b"1"), ("1.cls", b"1")], "no sample of .* has an image"),
        ([("0.png", b""), ("0.png", b"")], "0.png twice in one sample"),
        ([("0.png", b""), ("1.png", b""), ("0.cls", b"")], "the sample 0 twice; all members of a sample must follow"),
    ],
)
def test_unusable_shards_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.tar")


def test_missing_files_and_options_are_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*a-003.tar \(2 of 5 are missing\)"):
        opened(f"{shards}/a-{{000..004}}.tar")
    with pytest.raises(DataError, match=r"no .tar file matches .*b-\*"):
        opened(f"{shards}/b-*.tar")
    with pytest.raises(DataError, match="names a-000.tar twice"):
        opened(f"{shards}/a-{{000,000}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no .tar files"):
        opened(tmp_path / "empty")
    with pytest.raises(UnknownName, match="no option of this data set 'labels'"):
        opened(f"{shards}?labels=cls")


def test_the_fingerprint_does_not_depend_on_the_place(shards: Path, tmp_path: Path) -> None:
    before = fingerprint_of(opened(shards))
    assert fingerprint_of(opened(shards)) == before
    shards.rename(tmp_path / "moved")
    assert fingerprint_of(opened(tmp_path / "moved")) == before
    assert fingerprint_of(opened(f"{tmp_path}/moved/a-{{000..002}}.tar")) == before
    assert fingerprint_of(opened(f"{tmp_path}/moved?label=none")) != before
    shard(tmp_path / "moved" / "a-001.tar", samples(10, 19) | {"9999.png": picture(19), "9999.cls": b"1"})
    assert fingerprint_of(opened(tmp_path / "moved")) != before


def test_a_label_in_another_member(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar", {"0.png": picture(0), "0.cls": b"1", "0.coarse.json": json.dumps({"label": 7}).encode()}
    )
    images = opened(f"{path}?label=coarse.json")
    assert [item.label for item in images.read(None)] == [7]
