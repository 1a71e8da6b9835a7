"""Hugging Face data sets without the library; `tests/integrations/test_tables.py` tests reading them."""

import sys
from pathlib import Path

import pytest

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.data import Request
from pellucid.data._open import open_data
from pellucid.data.hf import _is_network_error


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package datasets. .*pip install 'pellucid\[integrations\]'"):
        open_data("hf:mnist", Request(tmp_path))
    with pytest.raises(UnknownName, match="no option of this data set 'labell'; did you mean 'label'"):
        open_data("hf:mnist?labell=x", Request(tmp_path))


def test_network_errors_are_found_behind_others() -> None:
    class ConnectError(Exception):
        pass

    def chained(inner: Exception) -> Exception:
        outer = RuntimeError("no data set")
        outer.__cause__ = inner
        return outer

    assert _is_network_error(chained(ConnectionRefusedError()))
    assert not _is_network_error(chained(ValueError()))
