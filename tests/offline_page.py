"""Open pages from disk in a browser without network access."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["faults", "opened"]


@contextmanager
def opened(browser: Any, page: Path, *, is_lazy: bool = False, **options: Any) -> Iterator[Any]:
    """Open a page; afterwards, check that nothing was loaded from elsewhere and the console is empty.

    All sections of a report are created at once, unless `is_lazy`: a reader's come when they are near.
    """
    context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(10_000)
    messages: list[str] = []
    requests: list[str] = []
    tab = context.new_page()
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    if not is_lazy:
        tab.evaluate("typeof pellucid === 'undefined' ? null : pellucid.showAll()")
    yield tab
    tab.wait_for_timeout(50)
    context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("data:", "blob:", page.as_uri()))] == []


def faults(tab: Any, part: str) -> list[str]:
    """Return the serious and critical accessibility violations within a part of a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    violations = axe.Axe().run(tab, context={"include": [part]}).response["violations"]
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]
