"""Atomic file writes."""

import errno
import json

import numpy as np
import pytest

from pellucid.core.errors import SaveError
from pellucid.storage.atomic import json_text, write_bytes, write_json


def test_folders_are_created_and_no_temporary_file_remains(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EROFS, "read-only"), (errno.EIO, "rror")],
)
def test_failed_write_leaves_the_old_file(number, message, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(descriptor):
        raise OSError(number, "error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(SaveError, match=message):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_and_readable(tmp_path):
    content = {
        "array": np.array([[1.5, np.nan]]),
        "infinite": float("inf"),
        "number": np.float32(0.5),
        "count": np.int64(3),
        "name": 'a "quoted" <name>',
        "group": {"inner": [1, 2]},
        "records": [{"a": 1}, {"b": None}],
        "none": [],
    }
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    expected = content | {"array": [[1.5, None]], "infinite": None, "number": 0.5, "count": 3}
    assert json.loads(text) == expected == json.loads(json_text(content))
    assert '    {"a": 1},\n    {"b": null}\n' in text
