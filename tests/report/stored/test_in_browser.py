"""The page of a store in a real browser, opened from disk without network access."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import chromium, until
from offline_page import faults, opened
from pellucid.report.stored import write_stored_report
from pretended_store import write_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    write_store(folder / "maps.zarr")
    return Path(write_stored_report(folder / "maps.zarr"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--disable-gpu") as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen_and_is_accessible(browser: Any, page: Path, width: int, scheme: str) -> None:
    with opened(browser, page, viewport={"width": width, "height": 900}, color_scheme=scheme) as tab:
        until(tab, lambda: tab.locator("#mean_maps td canvas").count() == 12)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert faults(tab, "body") == []


def test_maps_are_painted_and_reached_by_the_keyboard(browser: Any, page: Path) -> None:
    with opened(browser, page) as tab:
        tab.locator("#mean_maps").scroll_into_view_if_needed()
        until(tab, lambda: tab.locator("#mean_maps td canvas").count() == 12)
        tab.locator("#mean_maps .tile").first.focus()
        tab.keyboard.press("ArrowRight")
        readout = tab.locator("#mean_maps .told .readout").inner_text()
        assert readout.startswith("cat, gradient")
        assert "logits per unit of pixel value" in readout
        assert tab.locator("#extremes legend").count() == 1


def test_tables_open_without_a_script(browser: Any, page: Path) -> None:
    with opened(browser, page, java_script_enabled=True) as tab:
        assert tab.locator("#overview details").nth(0).get_attribute("open") is not None
        assert tab.locator("#confusion table.matrix tbody tr").count() == 3
        assert "damaged <i>file</i> 3" in tab.locator("#overview").inner_text()
