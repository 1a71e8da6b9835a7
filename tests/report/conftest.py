"""The folder of a run, and the page that is made of it."""

import shutil
from pathlib import Path

import pytest

from pellucid.artifacts.store import Store
from pretended_run import write_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What a finished run left; to be read only."""
    return write_run(tmp_path_factory.mktemp("whole") / "save")


@pytest.fixture
def store(whole: Store, tmp_path: Path) -> Store:
    """A copy of it."""
    shutil.copytree(whole.folder, tmp_path / "save")
    return Store(tmp_path / "save")
