"""A real browser for tests; without one, they are skipped, or fail in CI."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["chromium"]

ARGUMENTS = (
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
)


@contextmanager
def chromium(*more: str) -> Iterator["Browser"]:
    """Start headless Chromium with additional command-line arguments."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not on the PATH")
        pytest.skip("chromium is not on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is part of the extra `test`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*ARGUMENTS, *more])
        yield browser
        browser.close()
