"""Pages opened from disk in a browser, with the network cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["faults", "opened"]


@contextmanager
def opened(browser: Any, page: Path, **options: Any) -> Iterator[Any]:
    """A page of a browser; after it, nothing was loaded from elsewhere, and the console stayed empty."""
    context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(10_000)
    told: list[str] = []
    asked: list[str] = []
    tab = context.new_page()
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    tab.wait_for_timeout(50)
    context.close()
    assert told == []
    assert [url for url in asked if not url.startswith(("data:", "blob:", page.as_uri()))] == []


def faults(tab: Any, part: str) -> list[str]:
    """What axe-core finds serious or critical within a part of a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(tab, context={"include": [part]}).response["violations"]
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
