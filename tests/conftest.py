"""Shared test setup: type checks, one thread per process, the number of processes, the reference folder and MNIST."""

import os
import sys
from pathlib import Path

import pytest

from typechecked import check_package

check_package("pellucid")
os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is imported; the programs that tests start inherit it


@pytest.hookimpl
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run one process per processor that may be used, and a single file without any, which starts sooner."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # read by pytest-xdist
    if len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file():
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pytest_runtest_setup() -> None:
    """Return to one thread, since a run with `--threads` sets the number of the whole process."""
    if torch := sys.modules.get("torch"):
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
