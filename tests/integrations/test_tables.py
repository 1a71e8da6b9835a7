"""Images in tables: Parquet and Arrow files, and data sets of Hugging Face."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import required
from PIL import Image

from pellucid.core.errors import ConfigError, DataError, DownloadError, UnknownName
from pellucid.data import Request, load_data
from pellucid.data._each import read_each
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._items import Converter
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data

pytestmark = pytest.mark.integrations

COUNT = 90
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, COUNT)
NAMES = ["ant", "bee", "cat"]


def encoded(index: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(file, kind)
    return file.getvalue()


def table(rows: range, image: str = "image", label: str = "label", **options: Any) -> Any:
    pa = required("pyarrow")
    structs = options.get("structs", True)
    images = [{"bytes": encoded(row), "path": None} if structs else encoded(row) for row in rows]
    labels = [NAMES[LABELS[row]] for row in rows] if options.get("strings") else LABELS[list(rows)]
    content = pa.table({"id": [f"file {row}" for row in rows], image: images, label: labels})
    if options.get("metadata"):
        features = {image: {"_type": "Image"}, label: {"names": NAMES, "_type": "ClassLabel"}}
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return content


def write(path: Path, content: Any, kind: str = "parquet") -> Path:
    pa, parquet = required("pyarrow"), required("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(content, path, row_group_size=20)
        return path
    open_writer = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, open_writer(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=20)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "stream.arrow"])
@pytest.mark.parametrize("options", [{"metadata": True}, {"strings": True}, {"structs": False, "metadata": True}])
def test_files_of_every_kind(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = write(tmp_path / name, table(range(COUNT), **options), name.partition(".")[0])
    opened = open_data(str(path), Request(tmp_path))
    assert (opened.test.total, opened.train, opened.test.classes) == (COUNT, None, tuple(NAMES))
    for chosen in ([0], [COUNT - 1], [3, 19, 20, 21, 59, 60], list(range(COUNT))):
        items = list(opened.test.read(chosen))
        assert np.array_equal(np.stack([np.asarray(item.image) for item in items]), PIXELS[chosen])
        assert [int(item.label) for item in items] == LABELS[chosen].tolist()
    sample = sample_data(opened, limit=30)
    assert sample.notice.startswith("30 of 90 test images, stratified by class, seed 0")
    splits = load_data(str(path), Request(tmp_path))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == COUNT
    assert splits.name == f"parquet:{path}"


def test_a_label_without_a_name_in_the_metadata_is_refused(tmp_path: Path) -> None:
    content = table(range(COUNT), strings=True)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES[:2], "_type": "ClassLabel"}}
    content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path = write(tmp_path / "a.parquet", content)
    with pytest.raises(DataError, match=r"has the label 'cat', which is not one of the class names .*\(ant, bee\)"):
        open_data(str(path), Request(tmp_path))


@pytest.mark.parametrize("layout", ["train-00000-of-00001.parquet", "train/0.parquet"])
def test_parts_are_recognized_by_their_names(tmp_path: Path, layout: str) -> None:
    write(tmp_path / layout, table(range(40), strings=True))
    write(tmp_path / layout.replace("train", "test"), table(range(40, COUNT), strings=True))
    opened = open_data(f"parquet:{tmp_path}", Request(tmp_path))
    assert opened.train is not None
    assert (opened.train.total, opened.test.total) == (40, 50)
    splits = load_data(f"parquet:{tmp_path}", Request(tmp_path), limit_train=12)
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (12, 50)
    assert torch.equal(splits.test.pixels, torch.from_numpy(PIXELS[40:]).permute(0, 3, 1, 2))
    with pytest.raises(UnknownName, match="no split of .* 'valid'.*Available: test, train"):
        open_data(f"parquet:{tmp_path}?split=valid", Request(tmp_path))


def test_several_files_are_one_table(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", table(range(50, COUNT)))
    write(tmp_path / "a.parquet", table(range(50)))
    opened = open_data(f"parquet:{tmp_path}", Request(tmp_path)).test
    chosen = [0, 49, 50, 89]
    assert np.array_equal(np.stack([np.asarray(item.image) for item in opened.read(chosen)]), PIXELS[chosen])
    assert opened.classes is None


def test_a_test_part_without_labels_is_passed_over(tmp_path: Path) -> None:
    pa = required("pyarrow")
    unlabeled = table(range(10)).set_column(2, "label", pa.array([-1] * 10))
    write(tmp_path / "test.parquet", unlabeled)
    write(tmp_path / "validation.parquet", table(range(10, 30)))
    write(tmp_path / "train.parquet", table(range(30, COUNT)))
    assert open_data(f"parquet:{tmp_path}", Request(tmp_path)).test.total == 20


def test_only_a_few_rows_of_a_large_row_group_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = required("pyarrow.parquet")
    parquet.write_table(table(range(COUNT)), tmp_path / "a.parquet", row_group_size=COUNT)
    decoded = []
    original = parquet.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in original(self, *arguments, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    list(open_data(str(tmp_path / "a.parquet"), Request(tmp_path)).test.read([5]))
    assert decoded == [32]


def test_ambiguous_and_missing_columns_are_refused(tmp_path: Path) -> None:
    pa = required("pyarrow")
    plain = table(range(COUNT))
    both = plain.append_column("mask", plain["image"]).append_column("target", plain["label"])
    path = write(tmp_path / "a.parquet", both)
    with pytest.raises(DataError, match=r"several label columns \(label, target\).*\?label=label"):
        open_data(str(path), Request(tmp_path))
    assert open_data(f"{path}?label=target&image=mask", Request(tmp_path)).test.total == COUNT
    with pytest.raises(UnknownName, match="no column of a.parquet 'labl'; did you mean 'label'"):
        open_data(f"{path}?label=labl", Request(tmp_path))
    with pytest.raises(DataError, match="column id of a.parquet does not hold encoded images"):
        open_data(f"{path}?image=id", Request(tmp_path))
    path = write(tmp_path / "b.parquet", plain.drop_columns(["image"]))
    with pytest.raises(DataError, match="b.parquet has no image column among its columns id, label"):
        open_data(str(path), Request(tmp_path))
    path = write(tmp_path / "c.parquet", plain.set_column(2, "label", pa.array([None, *LABELS[1:].tolist()])))
    with pytest.raises(DataError, match="row 0 of c.parquet has no label"):
        open_data(str(path), Request(tmp_path))


def test_paths_stay_inside_the_folder(tmp_path: Path) -> None:
    pa = required("pyarrow")
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "0.png").write_bytes(encoded(0))
    (tmp_path / "outside.png").write_bytes(encoded(1))
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside.png")

    def read(path: str) -> Any:
        content = pa.table({"image": [{"bytes": None, "path": path}], "label": [0]})
        file = write(tmp_path / "data" / "a.parquet", content.cast(_struct_of_bytes(pa)))
        return next(open_data(str(file), Request(tmp_path)).test.read([0])).image

    assert np.array_equal(np.asarray(read("images/0.png")), PIXELS[0])
    for path in ("../outside.png", str(tmp_path / "outside.png"), "link.png", "none.png"):
        with pytest.raises(DataError, match="which is not in .*only files there are read"):
            read(path)


def _struct_of_bytes(pa: Any) -> Any:
    return pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])


def test_damaged_files_and_pictures_are_refused(tmp_path: Path) -> None:
    pa = required("pyarrow")
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            open_data(str(tmp_path / name), Request(tmp_path))
    with pytest.raises(DataError, match="there is no file or folder"):
        open_data("nowhere.parquet", Request(tmp_path))
    large = io.BytesIO()
    Image.new("1", (2000, 1001)).save(large, "PNG")
    path = write(tmp_path / "b.parquet", pa.table({"image": [b"noise", large.getvalue()], "label": [0, 1]}))
    opened = open_data(str(path), Request(tmp_path, max_megapixels=2)).test
    with pytest.raises(DataError, match="row 0 of b.parquet cannot be read as an image"):
        list(opened.read([0]))
    with pytest.raises(DataError, match="row 1 of b.parquet .*a picture of 2000×1001 pixels.*--max-megapixels"):
        list(opened.read([1]))
    whole = write(tmp_path / "c.parquet", table(range(COUNT)))
    whole.write_bytes(whole.read_bytes()[:3000] + bytes(500) + whole.read_bytes()[3500:])
    with pytest.raises(DataError):
        sample_data(open_data(str(whole), Request(tmp_path)), limit=COUNT)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The `datasets` library, with its cache in a temporary folder and without a network."""
    datasets = required("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def as_dataset(datasets: Any, rows: range, **columns: Any) -> Any:
    features = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=NAMES)}
    content = {"img": [Image.fromarray(PIXELS[row]) for row in rows], "fine_label": LABELS[list(rows)].tolist()}
    for name, value in columns.items():
        features[name], content[name] = value, content["fine_label"]
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def test_a_saved_data_set(hub: Any, tmp_path: Path) -> None:
    hub.DatasetDict(train=as_dataset(hub, range(60)), test=as_dataset(hub, range(60, COUNT))).save_to_disk(
        tmp_path / "pets"
    )
    opened = open_data(f"hf:{tmp_path / 'pets'}", Request(tmp_path))
    assert opened.train is not None
    assert (opened.train.total, opened.test.total, opened.test.classes) == (60, 30, tuple(NAMES))
    assert opened.test.labels is not None
    assert opened.test.labels.tolist() == LABELS[60:].tolist()
    items = list(opened.test.read([1, 29]))
    assert np.array_equal(np.stack([np.asarray(item.image) for item in items]), PIXELS[[61, 89]])
    splits = load_data(f"hf:{tmp_path / 'pets'}", Request(tmp_path), limit_train=24)
    assert torch.equal(splits.test.pixels, torch.from_numpy(PIXELS[60:]).permute(0, 3, 1, 2))
    assert splits.title == "pets"


def test_a_folder_of_images(hub: Any, tmp_path: Path) -> None:
    for row in range(COUNT):
        file = tmp_path / "photos" / ("train" if row < 60 else "test") / NAMES[LABELS[row]] / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(row))
    opened = open_data(f"hf:{tmp_path / 'photos'}", Request(tmp_path))
    ours = open_data(f"folder:{tmp_path / 'photos'}", Request(tmp_path))
    assert opened.test.classes == ours.test.classes == tuple(NAMES)
    both = [sample_data(each, limit=COUNT) for each in (opened, ours)]
    assert torch.equal(both[0].images.labels, both[1].images.labels)
    assert torch.equal(both[0].images.pixels, both[1].images.pixels)


def test_columns_and_splits_of_a_data_set(hub: Any, tmp_path: Path) -> None:
    rows = as_dataset(hub, range(COUNT), coarse=hub.ClassLabel(names=["x", "y", "z"]))
    rows.save_to_disk(tmp_path / "one")
    spec = f"hf:{tmp_path / 'one'}"
    assert open_data(spec, Request(tmp_path)).test.classes == tuple(NAMES)  # the usual name wins
    assert open_data(f"{spec}?label=coarse", Request(tmp_path)).test.classes == ("x", "y", "z")
    rows.rename_column("fine_label", "kind").save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match=r"several label columns \(kind, coarse\)"):
        open_data(f"hf:{tmp_path / 'two'}", Request(tmp_path))
    hub.DatasetDict(a=rows, b=rows).save_to_disk(tmp_path / "three")
    with pytest.raises(ConfigError, match=r"has the splits a, b, and none.*\?split=a"):
        open_data(f"hf:{tmp_path / 'three'}", Request(tmp_path))
    assert open_data(f"hf:{tmp_path / 'three'}?split=b", Request(tmp_path)).test.total == COUNT


def test_datasets_objects_are_sampled(hub: Any) -> None:
    rows = as_dataset(hub, range(COUNT))
    sample = sample_data(rows, limit=30)
    assert sample.notice == "30 of 90 test images, stratified by class, seed 0"
    assert sample.classes == tuple(NAMES)
    assert sample.images.image_shape == (3, 6, 5)

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        images = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in batch["img"]]
        return {"pixel_values": images, "labels": batch["fine_label"]}

    from pellucid.core.preprocessing import Preprocessing

    steps = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    transformed = sample_data(rows.with_transform(transform), limit=30, preprocessing=steps)
    assert torch.equal(transformed.images.pixels, sample.images.pixels)
    stream = sample_data(rows.to_iterable_dataset(), limit=30)
    assert stream.total == COUNT
    assert stream.classes == tuple(NAMES)


def test_without_a_network_it_is_a_download_error(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_library = required("huggingface_hub")
    monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="nobody/nothing cannot be downloaded"):
        open_data("hf:nobody/nothing", Request(tmp_path))


def test_code_in_a_data_set_is_not_run(hub: Any, tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError):
        open_data(f"hf:{folder}", Request(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert "HF_DATASETS_TRUST_REMOTE_CODE" not in os.environ


def reads(images: Any, indices: Any) -> list[Any]:
    return list(read_each(images, indices, Converter(None, 3, True), (3, 6, 5)))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_keys_are_the_rows_of_the_files(tmp_path: Path, kind: str) -> None:
    suffix = "parquet" if kind == "parquet" else "arrow"
    write(tmp_path / "more" / f"b.{suffix}", table(range(50, COUNT)), kind)
    write(tmp_path / f"a.{suffix}", table(range(50)), kind)
    found = reads(open_data(f"parquet:{tmp_path}", Request(tmp_path)).test, [3, 49, 50, 89])
    expected = [f"a.{suffix}:3", f"a.{suffix}:49", f"more/b.{suffix}:0", f"more/b.{suffix}:39"]
    assert [read.key for read in found] == expected
    assert [read.label for read in found] == LABELS[[3, 49, 50, 89]].tolist()


def test_a_table_without_labels(tmp_path: Path) -> None:
    pa = required("pyarrow")
    plain = table(range(COUNT))
    path = write(tmp_path / "a.parquet", plain.drop_columns(["label"]))
    negative = write(tmp_path / "b.parquet", plain.set_column(2, "label", pa.array([-1] * COUNT)))
    labeled = write(tmp_path / "c.parquet", plain)
    for spec, message in (
        (f"{path}", r"a.parquet has no label column among its columns id, image; choose one.*Only pellucid explain"),
        (f"{negative}", "b.parquet has no labels in its test split; choose another split"),
        (f"{labeled}?label=none", r"c.parquet was opened without labels \(label=none\)"),
    ):
        images = open_data(spec, Request(tmp_path)).test
        assert (images.total, images.labels) == (COUNT, None)
        assert [(read.label, read.problem) for read in reads(images, [0, 60])] == [(None, "")] * 2
        for use in (lambda spec=spec: load_data(spec, Request(tmp_path)), lambda one=images: sample_data(one, limit=5)):
            with pytest.raises(DataError, match=message):
                use()


def test_faulty_cells_are_results(tmp_path: Path) -> None:
    pa = required("pyarrow")
    cells = [{"bytes": encoded(row), "path": None} for row in range(10)]
    cells[2], cells[3], cells[4] = None, {"bytes": None, "path": None}, {"bytes": encoded(4)[:60], "path": None}
    cells[5], cells[6] = {"bytes": None, "path": "a\0b"}, {"bytes": None, "path": "x" * 5000}
    content = pa.table({"image": pa.array(cells, _struct_of_bytes(pa).field("image").type), "label": [0] * 10})
    images = open_data(str(write(tmp_path / "a.parquet", content)), Request(tmp_path)).test
    assert [bool(read.problem) for read in reads(images, range(10))] == [False] * 2 + [True] * 5 + [False] * 3


def test_a_damaged_row_group_leaves_the_others_readable(tmp_path: Path) -> None:
    parquet = required("pyarrow.parquet")
    path = write(tmp_path / "a.parquet", table(range(COUNT)))  # groups of 20 rows
    column = parquet.ParquetFile(path).metadata.row_group(2).column(1)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 200] = b"\xff" * 200
    path.write_bytes(content)
    images = open_data(str(path), Request(tmp_path)).test
    found = reads(images, range(COUNT))
    assert [read.index for read in found] == list(range(COUNT))
    assert [read.index for read in found if read.problem] == list(range(40, 60))
    assert "row 40 of a.parquet cannot be read" in found[40].problem
    path.unlink()
    with pytest.raises(DataError, match="a.parquet cannot be read"):
        reads(images, range(3))


def test_only_the_row_groups_with_chosen_rows_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = required("pyarrow.parquet")
    images = open_data(str(write(tmp_path / "a.parquet", table(range(COUNT)))), Request(tmp_path)).test
    groups = []
    original = parquet.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        groups.extend(options["row_groups"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    assert [item.key for item in images.read(range(45, 62))] == [f"a.parquet:{row}" for row in range(45, 62)]
    assert groups == [2, 3]


def test_the_fingerprint_of_tables_does_not_depend_on_the_place(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.parquet", table(range(50)))
    before = fingerprint_of(open_data(f"parquet:{tmp_path / 'one'}", Request(tmp_path)).test)
    (tmp_path / "one").rename(tmp_path / "two")
    assert fingerprint_of(open_data(f"parquet:{tmp_path / 'two'}", Request(tmp_path)).test) == before
    write(tmp_path / "two" / "a.parquet", table(range(1, 51)))
    assert fingerprint_of(open_data(f"parquet:{tmp_path / 'two'}", Request(tmp_path)).test) != before


def test_a_data_set_without_labels(hub: Any, tmp_path: Path) -> None:
    rows = as_dataset(hub, range(COUNT))
    rows.remove_columns("fine_label").save_to_disk(tmp_path / "bare")
    rows.save_to_disk(tmp_path / "full")
    for spec in (f"hf:{tmp_path / 'bare'}", f"hf:{tmp_path / 'full'}?label=none"):
        images = open_data(spec, Request(tmp_path)).test
        found = reads(images, [1, 80])
        assert [(read.key, read.label, read.problem) for read in found] == [("all:1", None, ""), ("all:80", None, "")]
        with pytest.raises(DataError, match="no label column|without labels"):
            sample_data(images, limit=5)
