"""Tests of the documentation site: complete, self-contained, and readable offline."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

import pellucid
from browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDES = (
    "index",
    "architecture",
    "explain",
    "targets",
    "jacobian",
    "prototypes",
    "glossary",
    "dependencies",
    "contributing",
    "changelog",
)
GROUPED = ("methods_overview", "methods_lrp", "methods_controls", "walkthrough_3_lrp_and_deep_taylor")
"""Some of the pages that are listed under a heading of the menu."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the whole site, as `nox -s docs` does."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, "docs/build.py", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Links(HTMLParser):
    """Resources loaded by a page, and targets of its links."""

    LOADED = frozenset({("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if (tag, name) in self.LOADED and value:
                self.loaded.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.linked.append(value)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def entries(page: str) -> dict[str, bool]:
    """Map each name on a module's page to True if it has its own docstring."""
    sections = re.findall(r'<section id="([^"]+)">(.*?)</section>', page, re.DOTALL)
    return {
        name: bool(re.search(r'<div class="docstring"><.*?\w', without_members(text), re.DOTALL))
        for name, text in sections
    }


def without_members(section: str) -> str:
    """Return a section without the sections of a class's members."""
    return section.partition('class="classattr"')[0]


def test_every_public_name_is_documented(site: Path) -> None:
    documented = entries(read(site / "pellucid.html"))
    for name in pellucid.__all__:
        value = getattr(pellucid, name)
        is_plain_module = isinstance(value, ModuleType) and not callable(value)
        assert value.__doc__ if is_plain_module else documented.get(name), f"pellucid.{name} is not documented"


def test_every_name_of_every_page_is_documented(site: Path) -> None:
    undocumented = {
        f"{page.relative_to(site)}: {name}"
        for page in sorted((site / "pellucid").rglob("*.html"))
        for name, documented in entries(read(page)).items()
        if not documented
    }
    assert undocumented == set()


def test_every_page_links_to_every_guide(site: Path) -> None:
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        assert {f"{up}{guide}.html" for guide in (*GUIDES, *GROUPED)} <= set(Links(read(page)).linked), page


def test_the_first_page_links_to_every_module(site: Path) -> None:
    linked = set(Links(read(site / "index.html")).linked)
    assert {str(page.relative_to(site)) for page in site.rglob("*.html")} <= linked


def test_pages_load_nothing_external(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = read(page)
        assert [link for link in Links(text).loaded if urlsplit(link).scheme not in ("", "data")] == [], page
        assert [link for link in Links(text).loaded if link.startswith("//")] == [], page
        assert re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", text) == [], page


def test_local_links_work(site: Path) -> None:
    broken = [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        for links in [Links(read(page))]
        for link in {*links.loaded, *links.linked}
        if not urlsplit(link).scheme
        and urlsplit(link).path
        and not (page.parent / unquote(urlsplit(link).path)).is_file()
    ]
    assert sorted(broken) == []


@pytest.fixture
def offline() -> Iterator["BrowserContext"]:
    """A browser without network access."""
    with chromium("--disable-gpu") as browser:
        yield browser.new_context(offline=True)


def watch(page: "Page") -> tuple[list[str], list[str]]:
    """Record the page's requests and script errors from now on."""
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    return requests, errors


def test_formulas_are_rendered_offline(site: Path, offline: "BrowserContext") -> None:
    pages = [page for page in sorted(site.rglob("*.html")) if "<math" in read(page)]
    assert site / "glossary.html" in pages
    for path in pages:
        page = offline.new_page()
        requests, errors = watch(page)
        page.goto(path.as_uri())
        boxes = [formula.bounding_box() for formula in page.locator("math").all()]
        assert all(box and box["width"] >= 3 and box["height"] >= 3 for box in boxes), path
        assert [url for url in requests if urlsplit(url).scheme not in ("file", "data")] == [], path
        assert errors == [], path
        page.close()
    page = offline.new_page()
    page.goto((site / "glossary.html").as_uri())
    fraction = page.locator("math[display=block] mfrac").first
    top, bottom = (fraction.locator("xpath=./*").nth(index).bounding_box() for index in (0, 1))
    assert top is not None
    assert bottom is not None
    assert top["y"] + top["height"] <= bottom["y"] + 2  # rendered as a fraction, not as a line of letters


def test_search_finds_a_class(site: Path, offline: "BrowserContext") -> None:
    page = offline.new_page()
    page.goto(f"{(site / 'glossary.html').as_uri()}?search=Artifact")
    result = page.locator('main a[href$="pellucid/core/contracts.html#Artifact"]').first
    result.wait_for(timeout=10_000)
