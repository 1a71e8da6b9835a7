"""The save folder of a finished run."""

import shutil
from pathlib import Path

import pytest

from pellucid.storage.store import Store
from pretended_run import write_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished run, shared by all tests and read-only."""
    return write_run(tmp_path_factory.mktemp("whole") / "save")


@pytest.fixture
def store(whole: Store, tmp_path: Path) -> Store:
    """A private copy of the finished run."""
    shutil.copytree(whole.folder, tmp_path / "save")
    return Store(tmp_path / "save")
