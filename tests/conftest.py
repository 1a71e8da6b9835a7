"""Shared test setup: a single thread, the reference folder and MNIST."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference values; tests that need it are skipped without it, or fail in CI."""
    folder = Path(os.environ.get("PELLUCID_SHARED", Path(__file__).parents[2] / "shared"))
    if folder.is_dir():
        return folder
    if os.environ.get("CI") == "true":
        pytest.fail(f"the reference folder {folder} is missing; set PELLUCID_SHARED.")
    pytest.skip(f"the reference folder {folder} is missing (set PELLUCID_SHARED)")


@pytest.fixture(scope="session")
def mnist_files(shared: Path) -> Path:
    """The folder with the four original MNIST files."""
    return shared / "data" / "mnist"
