"""Damaged and hostile stores."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import open_explanations
from pellucid.core.errors import DataError
from pretended_store import values, write_store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "maps.zarr"
    write_store(folder)
    return folder


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return shutil.copytree(original, tmp_path / "maps.zarr")


def test_a_missing_file_of_a_complete_shard_is_an_error(store: Path) -> None:
    (store / "relevance" / "c.2.0.0.0.0").unlink()
    stored = open_explanations(store)
    fix = r"relevance of shard 2 is damaged \(the file is missing\)\. Delete completed/c\.2 in the store"
    with pytest.raises(DataError, match=fix):
        stored.select().relevance("gradient")
    with pytest.raises(DataError, match=fix):
        _ = stored[13]
    np.testing.assert_array_equal(stored[:3].relevance("gradient"), values()["relevance"][:3, 0])


@pytest.mark.parametrize("name", ["relevance/c.1.0.0.0.0", "label/c.1", "key/c.1", "logits/c.1.0"])
def test_a_changed_file_is_an_error(store: Path, name: str) -> None:
    content = bytearray((store / name).read_bytes())
    content[len(content) // 2] ^= 255
    (store / name).write_bytes(content)
    variable = name.partition("/")[0]
    with pytest.raises(DataError, match=rf"{variable} of shard 1 is damaged .*Delete completed/c\.1"):
        list(open_explanations(store))
    (store / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{variable} of shard 1 is damaged"):
        list(open_explanations(store))


def test_results_that_are_nan_without_an_error_are_an_error(tmp_path: Path) -> None:
    rows = values()
    rows["relevance"][14, 1, 0, 2, 2] = np.nan
    write_store(tmp_path / "maps.zarr", rows)
    stored = open_explanations(tmp_path / "maps.zarr").select()
    stored.relevance("gradient")
    with pytest.raises(DataError, match="shard 2 is damaged .image 14 has NaN without an error"):
        stored.relevance("lrp.epsilon")


def test_deleting_the_mark_is_a_fix(store: Path) -> None:
    (store / "relevance" / "c.2.0.0.0.0").unlink()
    (store / "completed" / "c.2").unlink()
    assert open_explanations(store).completed == 14
    write_store(store)
    assert len(open_explanations(store).select().relevance("gradient")) == 18


def edited(store: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the metadata: `change` receives the root and, by name, the arrays."""
    root = json.loads((store / "zarr.json").read_text())
    change(root, root["consolidated_metadata"]["metadata"])
    (store / "zarr.json").write_text(json.dumps(root))


HOSTILE: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "codecs": lambda root, arrays: arrays["key"].update(codecs=[{"name": "numcodecs.pickle", "configuration": {}}]),
    "object type": lambda root, arrays: arrays["key"].update(data_type="object"),
    "vlen type": lambda root, arrays: arrays["key"].update(data_type={"name": "numcodecs.object", "configuration": {}}),
    "huge shape": lambda root, arrays: arrays["relevance"].update(shape=[20, 2, 1, 1 << 40, 1 << 40]),
    "negative shape": lambda root, arrays: arrays["relevance"].update(shape=[20, 2, 1, -4, 4]),
    "float shape": lambda root, arrays: arrays["relevance"].update(shape=[20, 2, 1, 4.0, 4]),
    "huge chunk": lambda root, arrays: arrays["label"]["chunk_grid"]["configuration"].update(chunk_shape=[1 << 39]),
    "empty chunk": lambda root, arrays: arrays["label"]["chunk_grid"]["configuration"].update(chunk_shape=[0]),
    "many classes": lambda root, arrays: arrays["class"].update(shape=[1 << 39]),
    "other lengths": lambda root, arrays: arrays["attribution"].update(shape=[3]),
    "other images": lambda root, arrays: root["attributes"].update(images=21),
    "endless images": lambda root, arrays: root["attributes"].update(images=1 << 60),
    "no shard": lambda root, arrays: root["attributes"].update(shard=0),
    "text for a shard": lambda root, arrays: root["attributes"].update(shard="6"),
    "no marks": lambda root, arrays: arrays.pop("completed"),
    "list of codecs": lambda root, arrays: arrays["key"].update(codecs=5),
    "array as text": lambda root, arrays: arrays.update(key="text"),
    "residual without maps": lambda root, arrays: arrays.pop("relevance"),
    "other group": lambda root, arrays: root.update(attributes=[]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_impossible_metadata_is_refused(store: Path, case: str) -> None:
    edited(store, HOSTILE[case])
    with pytest.raises(DataError):
        open_explanations(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"node_type": "array"}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(DataError):
        open_explanations(tmp_path)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a store of explanations: it contains no zarr\.json"):
        open_explanations(tmp_path / "nothing.zarr")


class Trap:
    def __reduce__(self) -> Any:
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("header", [{"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"dtype": "|O"}])
def test_nothing_is_unpickled(tmp_path: Path, header: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    usual = {"zarr_format": 2, "shape": [1, 2], "chunks": [1, 2], "dtype": "<f4", "compressor": None, "fill_value": 0.0}
    (tmp_path / ".zarray").write_text(json.dumps({**usual, "order": "C", "filters": None, **header}))
    (tmp_path / ".zattrs").write_text(json.dumps({"content": "Jacobian (image, *outputs, *inputs)"}))
    (tmp_path / "0.0").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        open_explanations(tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_classes_out_of_range_are_an_error(tmp_path: Path) -> None:
    rows = values()
    rows["prediction"][7] = 9
    write_store(tmp_path / "maps.zarr", rows)
    with pytest.raises(DataError, match="prediction has values from -1 to 9, but there are 3 classes"):
        _ = open_explanations(tmp_path / "maps.zarr").predictions


def test_marks_beyond_the_end_are_ignored(store: Path) -> None:
    for name in ("c.4", "c.99999999999999999999", "c.-1", "c.x"):
        (store / "completed" / name).write_bytes(b"")
    assert open_explanations(store).completed == 20
