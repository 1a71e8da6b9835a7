"""Shared test setup: type checks, one thread, number of processes, reference folder, MNIST and the native kernel."""

import ctypes
import gc
import getpass
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from typechecked import check_package

gc.disable()  # until all tests are collected
check_package("pellucid")
os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is imported; the programs that tests start inherit it

# Not the user's own cache. Shared by all processes and sessions, so that a kernel is compiled once.
os.environ["PELLUCID_CACHE"] = str(Path(tempfile.gettempdir(), f"pellucid-tests-{getpass.getuser()}"))
# Tests without the fixture `native` must not depend on those that have filled the cache before them.
os.environ.setdefault("PELLUCID_NATIVE", "0")


@pytest.hookimpl
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run one process per processor that may be used, and a single file without any, which starts sooner."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # read by pytest-xdist
    if len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file():
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@cache
def may_be_slow(path: Path) -> bool:
    """True if a file of tests, or the conftest.py beside it, mentions the marker."""
    files = (path, path.with_name("conftest.py"))
    return any("mark.slow" in file.read_text("utf-8") for file in files if file.is_file())


def pytest_configure(config: pytest.Config) -> None:
    """Collect no doctests of the package for `-m slow`: none is slow, and importing everything takes a while."""
    if config.option.markexpr == "slow" and config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        config.args.remove("src")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only files with slow tests for `-m slow`; every process does this anew."""
    is_without = (
        config.option.markexpr == "slow" and collection_path.suffix == ".py" and not may_be_slow(collection_path)
    )
    return True if is_without else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave all that was imported and collected, which stays, out of the garbage collections of the tests."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make sure that no slow test is in a file that `-m slow` leaves out."""
    lost = [item.nodeid for item in items if item.get_closest_marker("slow") and not may_be_slow(item.path)]
    if lost:
        raise pytest.UsageError(f"mention the marker slow in the file of {lost[0]}, or -m slow does not find it")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Return to one thread, since a run with `--threads` sets the number of the whole process, and seed torch.

    Otherwise the random numbers of a test would depend on the tests that its process ran before.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.manual_seed(zlib.crc32(item.nodeid.encode()))


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


@pytest.fixture(scope="session")
def compiler() -> str:
    """Path of a C++ compiler; tests that need it are skipped without it, or fail in CI."""
    from pellucid.jacobians._native.compiler import find_compiler

    if path := find_compiler():
        return path
    if os.environ.get("CI") == "true":
        pytest.fail("there is no C++ compiler; install g++.")
    pytest.skip("there is no C++ compiler")


@pytest.fixture
def generic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jacobians without the native kernel, even if `PELLUCID_NATIVE=1` is set for the whole test run."""
    monkeypatch.setenv("PELLUCID_NATIVE", "0")


@pytest.fixture
def native(compiler: str, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The native kernel, built if necessary, and used by all Jacobians of the test."""
    from pellucid.jacobians._native import build

    monkeypatch.setenv("PELLUCID_NATIVE", "1")
    build.build_native()
    library = build.library()
    assert library is not None
    return library
