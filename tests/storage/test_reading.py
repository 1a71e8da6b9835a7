"""Save folders from somebody else: reads stay inside, end, and give clear errors."""

import io
import json
import os
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.core.errors import ModelError, PellucidError, SaveError
from pellucid.report import write_report
from pellucid.storage import Store
from pellucid.storage.films import FILMS
from pellucid.storage.reading import parse_json, read_inside, unpack_arrays

OLD = Path(__file__).parents[1] / "run" / "old_run"


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "link", "folder/../../secret", "linked/secret"])
def test_files_outside_are_not_read(path, tmp_path) -> None:
    save = tmp_path / "save"
    (save / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (save / "link").symlink_to(tmp_path / "secret")
    (save / "linked").symlink_to(tmp_path)
    with pytest.raises(OSError, match="outside the save folder"):
        read_inside(save, path)
    with pytest.raises(SaveError, match="cannot be read: its path is outside the save folder"):
        Store(save).read(path)


def test_links_inside_the_folder_and_a_linked_folder_are_read(tmp_path) -> None:
    (tmp_path / "save").mkdir()
    (tmp_path / "save" / "file").write_text("x")
    (tmp_path / "save" / "link").symlink_to("file")
    (tmp_path / "alias").symlink_to(tmp_path / "save")
    assert read_inside(tmp_path / "save", "link") == read_inside(tmp_path / "alias", "file") == b"x"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_only_regular_files_are_read(make, tmp_path) -> None:
    make(tmp_path / "odd")
    with pytest.raises(OSError, match=r"regular file|directory"):
        read_inside(tmp_path, "odd")


def test_large_files_are_refused(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_inside(tmp_path, "file", 5) == b"12345"
    with pytest.raises(OSError, match="too large"):
        read_inside(tmp_path, "file", 4)


def test_absent_and_impossible_paths(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        read_inside(tmp_path, "absent")
    with pytest.raises(OSError, match="invalid"):
        read_inside(tmp_path, "a\0b")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError):  # noqa: PT011  (each system words it differently)
        read_inside(tmp_path, "loop")


def test_deep_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000 + "]" * 100_000)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, zeros=np.zeros(1_000_000))
    assert len(packed.getvalue()) < 10_000
    assert unpack_arrays(packed.getvalue(), 9_000_000)["zeros"].shape == (1_000_000,)
    with pytest.raises(ValueError, match="the arrays take 8 MB, at most 7 MB are read"):
        unpack_arrays(packed.getvalue(), 7_000_000)


def header_of(shape: tuple[int, ...]) -> bytes:
    """An .npz whose array claims a shape, but holds no values."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", array.getvalue())
    return archive.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK", header_of((10**14,)), header_of((2**62, 2**62)), b"\x93NUMPY"])
def test_damaged_archives_are_errors(content) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (NumPy words some of them)
        unpack_arrays(content)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an interrupted run, with the user's module that built its model."""
    module = ModuleType("old_model")
    module.tiny = lambda channels, classes, image_size: nn.Sequential(  # type: ignore[attr-defined]
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels * 49, classes)
    )
    monkeypatch.setitem(sys.modules, "old_model", module)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(OLD, tmp_path / "save"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": 5}, "'config' is an integer, expected an object"),
        ({"config": {"seed": "x"}}, "'config.seed' is a string, expected an integer"),
        ({"dataset": {"name": 7}}, "'dataset.name' is an integer, expected a string"),
        ({"dataset": {"classes": ["a", 3]}}, r"'dataset.classes\[1\]' is an integer, expected a string"),
        ({"dataset": {"image_shape": [1, True, 3]}}, r"'dataset.image_shape\[1\]' is true or false, expected an int"),
        ({"model": {"name": []}}, "'model.name' is a list, expected a string"),
        ({"status": None}, "'status' is null, expected a string"),
    ],
)
def test_wrong_types_in_the_record_are_one_clear_error(change, message, save) -> None:
    record = json.loads((save / "run.json").read_text())
    (save / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(SaveError, match=message):
        pellucid.load_run(save)


def test_shapes_are_compared_before_a_model_is_built(save) -> None:
    record = json.loads((save / "run.json").read_text())
    record["model"]["name"], record["dataset"]["image_shape"] = "mlp", [3, 10**6, 10**6]
    (save / "run.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="their shapes differ from those for images of shape"):
        pellucid.load_run(save)


def retyped(value: object, draw: random.Random) -> object:
    """Replace one entry somewhere in a JSON value by something of another type."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        return {**value, key: retyped(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], retyped(value[place], draw), *value[place + 1 :]]
    return draw.choice([None, 5, -1, 1e300, "x", "../../x", [], {}, True, "\ud800", [[[]]]])


def mutate(save: Path, draw: random.Random) -> None:
    """Damage one file of a save folder."""
    path = draw.choice(sorted(path for path in save.rglob("*") if path.is_file()))
    content = path.read_bytes()
    kind = draw.choice(["retype", "retype", "retype", "cut", "flip", "pipe", "link", "deep", "folder", "empty"])
    if kind == "retype" and path.suffix == ".json":
        path.write_text(json.dumps(retyped(json.loads(content or "{}"), draw)))
    elif kind == "retype" and path.suffix == ".jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        path.write_text("".join(json.dumps(retyped(line, draw)) + "\n" for line in lines))
    elif kind == "flip" and content:
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "link":
        target = save.parent / f"elsewhere_{path.name}"
        path.rename(target)
        path.symlink_to(target)
    elif kind == "deep":
        path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"" if kind == "empty" else content[: draw.randrange(len(content) + 1)])


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_folder_is_read_or_refused(seed, save, capsys) -> None:
    draw = random.Random(seed)
    mutate(save, draw)
    calls: list[Callable[[], object]] = [lambda: pellucid.load_run(save), lambda: write_report(save)]
    calls += [lambda make=make: make(Store(save)) for make in FILMS.values()]
    for call in calls:
        with suppress(PellucidError):
            call()
    assert main(["run", "--resume", "--save", str(save)]) in (0, 1, 2)
    printed = capsys.readouterr()
    assert "unexpected" not in printed.err
    assert "Traceback" not in printed.err
