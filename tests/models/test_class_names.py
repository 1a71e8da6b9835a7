"""Class names from files."""

import json

import pytest

from pellucid.core.errors import ConfigError, DataError
from pellucid.models._class_names import check_class_count, read_class_names

ODD = ("tench, Tinca", "a\ttab", "Käse 🧀", "<script>alert(1)</script>", "tench, Tinca", "line\u2028separator")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("final", ["", "end"])
def test_lines(ending, final, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes((ending.join(ODD) + (ending if final else "")).encode())
    assert read_class_names(path) == ODD


@pytest.mark.parametrize(
    "shape", [list, lambda names: {str(index): name for index, name in reversed([*enumerate(names)])}]
)
def test_json(shape, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(shape(ODD)), encoding="utf-8-sig")
    assert read_class_names(path) == ODD
    path.write_text(json.dumps({"model_type": "vit", "id2label": {str(i): name for i, name in enumerate(ODD)}}))
    assert read_class_names(str(path)) == ODD


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "cat\n\ndog", "entry 1 is ''"),
        ("a.json", "[1, 2]", "entry 0 is 1; expected a name"),
        ("a.json", '{"0": "cat", "2": "dog"}', 'none for index 1; expected the indices "0" to "1"'),
        ("a.json", '"cat"', "has a str; expected a list"),
        ("a.json", "[", "is not valid JSON"),
        ("a.txt", b"\xff\xfe", "is not valid UTF-8"),
    ],
)
def test_invalid_files_are_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_class_names(path)


def test_missing_files_and_lone_surrogates(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_class_names(tmp_path / "absent.txt")
    path = tmp_path / "names.json"
    path.write_text('["caf\\udce9"]')
    with pytest.raises(DataError, match="cannot be stored as UTF-8"):
        read_class_names(path)


def test_the_count_must_match():
    check_class_count(("a", "b"), 2, "names.txt", "the data")
    with pytest.raises(ConfigError, match="names.txt has 1,000 names, but the data has 10 classes"):
        check_class_count(("a",) * 1000, 10, "names.txt", "the data")
