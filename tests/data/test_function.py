"""Data sets returned by a user's function, imported from the current folder."""

import sys
from itertools import count
from pathlib import Path

import pytest

from pellucid.core.errors import ConfigError, DataError, UnknownName
from pellucid.data import RawData, Request, load_data
from pellucid.data._function import load_function

HEAD = """
import torch
from torch.utils.data import IterableDataset, TensorDataset

def some(n):
    return TensorDataset(torch.arange(n).view(n, 1, 1, 1).expand(n, 1, 4, 4) / 255, torch.arange(n) % 2)
"""
NUMBERS = count()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a module to the current folder and loads the data set `shoes` from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"shop_{next(NUMBERS)}"

    def write_and_load(body: str, function: str = "shoes", **options: int) -> RawData:
        (tmp_path / f"{module}.py").write_text(HEAD + body)
        return load_function(Request(Path(), argument=f"{module}:{function}", **options))

    yield write_and_load
    sys.modules.pop(module, None)


def test_images_labels_and_classes_are_those_of_the_function(load) -> None:
    raw = load("def shoes(): return some(6), some(4), ['left', 'right']")
    assert raw.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert raw.test.labels.tolist() == [0, 1, 0, 1]
    assert (raw.classes, raw.title, raw.default_epochs) == (("left", "right"), "shoes", 10)


def test_the_module_can_extend_the_search_path(load, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    body = f"import sys\nsys.path.insert(0, {str(tmp_path / 'shelf')!r})\n"
    load(body + "def shoes(): return some(6), some(4), (1, 2)")
    assert sys.path[0] == str(tmp_path / "shelf")


def test_images_are_resized_on_request(load) -> None:
    assert load("def shoes(): return some(6), some(4), (1, 2)", image_size=7).test.image_shape == (1, 7, 7)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("import nothing_of_this_name", ConfigError, "No module named 'nothing_of_this_name'"),
        ("def shoe(): pass", UnknownName, "did you mean 'shoe'"),
        ("shoes = 3", UnknownName, "no function in"),
        ("def shoes(): return some(6)", DataError, "returned a TensorDataset"),
        ("def shoes(): return some(6), some(4)", DataError, "a tuple of length 2; expected (train data set, test data"),
        ("def shoes(): return some(6), some(4), 'ab'", DataError, "class names of type str"),
        ("def shoes(): return some(6), some(4), 2", DataError, "class names of type int"),
        (
            "class Stream(IterableDataset):\n    __iter__ = None\ndef shoes(): return some(6), Stream(), ['a', 'b']",
            DataError,
            "map-style",
        ),
        ("raise SystemExit(0)", ConfigError, "cannot be imported: SystemExit: 0"),
        ("def shoes(): raise SystemExit(0)", DataError, "failed with SystemExit: 0 ("),
        ("def shoes(): raise OSError('no shoes')", DataError, "failed with OSError: no shoes ("),
        ("def shoes(): return some(6), some(4), ['one']", DataError, "item 1 of the training set of shop_"),
    ],
)
def test_invalid_functions_are_refused(load, body: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        load(body)
    assert message in str(caught.value)


def test_the_error_names_the_failing_line(load) -> None:
    with pytest.raises(DataError, match=r"ZeroDivisionError: .*shop_\d+\.py, line 8\)"):
        load("def shoes():\n    return 1 / 0")


@pytest.mark.parametrize("names", ["['left', 'caf\\udce9']", "['caf\\ud800', 'right']"])
def test_class_names_that_cannot_be_stored_are_refused(tmp_path, monkeypatch, names) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"shop_{next(NUMBERS)}"
    (tmp_path / f"{module}.py").write_text(HEAD + f"def shoes(): return some(6), some(4), {names}")
    with pytest.raises(DataError, match=r"a class name .* is 'caf.*', which cannot be stored as UTF-8"):
        load_data(f"{module}:shoes", Request(tmp_path))
