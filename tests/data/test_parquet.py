"""Parquet files without the library; `tests/integrations/test_tables.py` tests reading them."""

import sys
from pathlib import Path

import pytest

from pellucid.core.errors import ConfigError
from pellucid.data import Request, load_data
from pellucid.data._open import open_data
from pellucid.data._shards import part_of
from pellucid.data._spec import parse_spec


@pytest.mark.parametrize("spec", ["a.parquet", "a.ARROW", "b/c.feather?label=x", "parquet:folder", "/a:b/c.parquet"])
def test_a_missing_library_is_named_with_its_extra(spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert parse_spec(spec)[0] == "parquet"
    for load in (load_data, open_data):
        with pytest.raises(ConfigError, match=r"needs the package pyarrow. .*pip install 'pellucid\[parquet\]'"):
            load(spec, Request(tmp_path))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation/0.parquet", "validation"),
        ("val_0.arrow", "validation"),
        ("test/train.parquet", "train"),
        ("contest.parquet", ""),
        ("latest-results.parquet", ""),
    ],
)
def test_the_part_of_a_file_is_told_by_its_name(name: str, part: str) -> None:
    assert part_of(Path(name)) == part
