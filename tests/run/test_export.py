"""`pellucid export` without its library; `tests/integrations/test_export.py` tests the tables."""

import sys
from pathlib import Path

import pytest

from pellucid.cli import main
from pellucid.config import ExportConfig
from pellucid.core.errors import ConfigError
from pellucid.run.export import _check_is_free


def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "a.parquet")]) == 2
    assert (
        "pellucid export needs the package pyarrow. Install it with: pip install 'pellucid[parquet]'"
        in capsys.readouterr().err
    )


def test_the_file_name_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to out.csv is not a Parquet file; use a name that ends in .parquet"):
        ExportConfig(tmp_path, Path("out.csv"))
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(ConfigError, match="is a folder; expected the name of a file"):
        ExportConfig(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["{}/photos.parquet", "parquet:{}/photos.parquet?label=kind"])
def test_the_data_set_of_the_run_is_not_overwritten(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="would overwrite the data set of the run"):
        _check_is_free(tmp_path / "photos.parquet", name.format(tmp_path))
    _check_is_free(tmp_path / "table.parquet", name.format(tmp_path))
