"""A real browser for tests; without one, they are skipped, or fail in CI."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["chromium", "until"]

TIMEOUT_SECONDS = 60

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


def until(page: "Page", condition: Callable[[], object]) -> None:
    """Keep the page running until a condition holds.

    `page.wait_for_function` does not work on the report: after its first try it polls by `eval`, which the report's
    Content Security Policy forbids.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
