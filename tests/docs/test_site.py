"""Tests of the documentation site: complete, self-contained, and readable offline."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import pellucid
from browser import chromium
from offline_page import faults

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDES = (
    "index",
    "architecture",
    "explain",
    "report",
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
    """The site that `nox -s docs` has built in `$PELLUCID_DOCS/docs`; without that variable, build it here."""
    if built := os.environ.get("PELLUCID_DOCS"):
        return Path(built, "docs").resolve(strict=True)
    folder = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, "docs/build.py", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Links(HTMLParser):
    """Resources loaded by a page, and targets of its links."""

    TAGS = re.compile(r"""<(?:script|link|img|iframe|source|a)\b(?:[^>"']|"[^"]*"|'[^']*')*>""", re.IGNORECASE)
    """The tags that can have them; parsing only these is six times as fast."""
    LOADED = frozenset({("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        for tag in self.TAGS.findall(page):
            self.feed(tag)
            self.clear_cdata_mode()  # a script begins here, without its content

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if (tag, name) in self.LOADED and value:
                self.loaded.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.linked.append(value)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def links(site: Path) -> dict[Path, Links]:
    """The links of each page."""
    return {page: Links(read(page)) for page in sorted(site.rglob("*.html"))}


def test_links_are_found_as_by_a_parser_of_the_whole_page(site: Path, links: dict[Path, Links]) -> None:
    whole = Links("")
    whole.feed(read(site / "index.html"))
    assert len(whole.linked) > 300
    found = links[site / "index.html"]
    assert (found.loaded, found.linked) == (whole.loaded, whole.linked)


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


def test_every_page_links_to_every_guide(site: Path, links: dict[Path, Links]) -> None:
    for page, found in links.items():
        up = "../" * (len(page.relative_to(site).parts) - 1)
        assert {f"{up}{guide}.html" for guide in (*GUIDES, *GROUPED)} <= set(found.linked), page


def test_the_first_page_links_to_every_module(site: Path, links: dict[Path, Links]) -> None:
    linked = set(links[site / "index.html"].linked)
    assert {str(page.relative_to(site)) for page in links} <= linked


def test_pages_load_nothing_external(links: dict[Path, Links]) -> None:
    for page, found in links.items():
        assert [link for link in found.loaded if urlsplit(link).scheme not in ("", "data")] == [], page
        assert [link for link in found.loaded if link.startswith("//")] == [], page
        assert re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", read(page)) == [], page


def test_local_links_work(site: Path, links: dict[Path, Links]) -> None:
    broken = [
        f"{page.relative_to(site)}: {link}"
        for page, found in links.items()
        for link in {*found.loaded, *found.linked}
        if not urlsplit(link).scheme
        and urlsplit(link).path
        and not (page.parent / unquote(urlsplit(link).path)).is_file()
    ]
    assert sorted(broken) == []


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture
def offline(browser: "Browser") -> Iterator["BrowserContext"]:
    """A browser without network access."""
    context = browser.new_context(offline=True)
    yield context
    context.close()


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
    page = offline.new_page()
    requests, errors = watch(page)
    for path in pages:
        page.goto(path.as_uri(), wait_until="domcontentloaded")  # pictures need not be decoded
        sizes = page.locator("math").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect()).map(({ width, height }) => [width, height])"
        )
        assert sizes, path
        assert np.min(sizes) >= 3, path
        assert [url for url in requests if urlsplit(url).scheme not in ("file", "data")] == [], path
        assert errors == [], path
    page.goto((site / "glossary.html").as_uri())
    fraction = page.locator("math[display=block] mfrac").first
    top, bottom = (fraction.locator("xpath=./*").nth(index).bounding_box() for index in (0, 1))
    assert top is not None
    assert bottom is not None
    assert top["y"] + top["height"] <= bottom["y"] + 2  # rendered as a fraction, not as a line of letters


def results(page: "Page", text: str) -> tuple[list[str], list[str]]:
    """Search, and return the addresses of the guides and of the names found."""
    box = page.get_by_role("searchbox")
    box.fill("")
    box.fill(text)
    page.get_by_role("heading", name=f"Search: {text}", exact=True).wait_for(timeout=10_000)
    lists = {
        title: [str(link.get_attribute("href")) for link in page.locator(f"h2:has-text('{title}') + ul a").all()]
        for title in ("Guides", "Names in the API")
    }
    return lists["Guides"], lists["Names in the API"]


QUERIES = {
    "grad cam": "methods_cam.html",
    "grad-cam": "methods_cam.html",
    "gradcam": "methods_cam.html",
    "GradCAM": "methods_cam.html",
    "lrp epsilon": "methods_lrp.html",
    "LRP": "methods_lrp.html",
    "deep lift": "methods_deeplift.html",
    "DeepLIFT": "methods_deeplift.html",
    "integrated gradients": "methods_integrated_gradients.html",
    "shapley": "methods_perturbation.html",
    "occlu": "methods_perturbation.html",
    "smooth grad": "methods_smoothgrad.html",
    "InputXGradient": "methods_taylor.html",
    "jacobian": "jacobian.html",
    "prototypes": "prototypes.html",
    "metrics": "evaluation.html",
    "lightning": "integrations.html",
    "tokens": "methods_attention.html",
    "install": "index.html",
    "serve": "report.html",
    "walkthrough": "walkthrough_1_activation_maximisation.html",
    "t-sne": "index.html",
}
"""Searches, and the page that each must find first."""


def test_search_finds_the_page_about_the_query_first(site: Path, offline: "BrowserContext") -> None:
    page = offline.new_page()
    requests, errors = watch(page)
    page.goto((site / "pellucid" / "core" / "contracts.html").as_uri())
    # some sections on t-SNE may be added to other guides
    found = {text: [Path(link.partition("#")[0]).name for link in results(page, text)[0]] for text in QUERIES}
    assert {text: guides[0] for text, guides in found.items() if text != "t-sne"} == {
        text: name for text, name in QUERIES.items() if text != "t-sne"
    }
    assert QUERIES["t-sne"] in found["t-sne"][:3]
    assert errors == []
    assert [url for url in requests if urlsplit(url).scheme not in ("file", "data")] == []


def test_search_lists_names_after_guides_and_more_on_request(site: Path, offline: "BrowserContext") -> None:
    page = offline.new_page()
    page.goto((site / "glossary.html").as_uri())
    guides, names = results(page, "gradient")
    assert len(guides) <= 8
    assert len(names) == 20
    headings = page.locator("main h2").all_text_contents()
    assert headings == ["Guides", "Names in the API"]
    page.get_by_role("button", name=re.compile(r"Show \d+ more")).last.click()
    assert page.locator("h2:has-text('Names in the API') + ul a").count() > 20
    _, names = results(page, "create_analyzer")
    assert names[0] == "pellucid.html#create_analyzer"
    assert results(page, "LoadRun")[1][0] == "pellucid.html#load_run"
    assert results(page, "xyzzy") == ([], [])
    assert "No results." in str(page.locator("[role=status]").text_content())
    page.get_by_role("searchbox").fill("<img src=x onerror=alert(1)>")
    page.get_by_role("heading", name="Search: <img").wait_for(timeout=10_000)
    assert page.locator("main img").count() == 0


def test_search_works_with_the_keyboard_and_by_address(site: Path, offline: "BrowserContext") -> None:
    page = offline.new_page()
    page.goto(f"{(site / 'glossary.html').as_uri()}?search=Artifact")
    page.locator('main a[href$="#Artifact"]').first.wait_for(timeout=10_000)
    page.goto((site / "glossary.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("grad cam")
    page.locator(".results a").first.wait_for(timeout=10_000)
    assert "search=grad" in page.url
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("[...document.querySelectorAll('.results a')].indexOf(document.activeElement)")
    assert focused == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="Glossary", exact=True).wait_for(timeout=10_000)
    page.keyboard.type("grad cam")
    page.locator(".results a").first.wait_for(timeout=10_000)
    page.keyboard.press("Enter")
    page.wait_for_url("**/methods_cam.html")


def test_the_api_page_begins_with_the_key_names(site: Path) -> None:
    page = read(site / "pellucid.html").partition("</dl>")[0]
    named = re.findall(r'<dt><a href="#(\w+)"><code>\1</code></a></dt><dd>([^<]+)</dd>', page)
    assert len(named) == 27
    assert {name for name, _ in named} <= set(pellucid.__all__)
    assert {"create_analyzer", "explain", "evaluate", "inspect", "watch", "load_run", "jacobian"} <= {
        n for n, _ in named
    }
    assert all(re.fullmatch(r".{15,200}\.", sentence) for _, sentence in named), named
    # no documented member comes before
    assert '<section id="' not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_accessible_in_light_and_dark(site: Path, browser: "Browser", width: int, scheme: str) -> None:
    viewport = {"width": width, "height": 900}
    with browser.new_context(offline=True, viewport=viewport, color_scheme=scheme) as context:
        page = context.new_page()
        for name in (
            "methods_cam.html",
            "explain.html",
            "glossary.html?search=grad%20cam",
            "pellucid/core/seeding.html",
        ):
            page.goto(f"{site.as_uri()}/{name}")
            if "search" in name:
                page.locator(".results a").first.wait_for(timeout=10_000)
            assert faults(page, "body") == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == (scheme == "dark")
        page.goto(f"{site.as_uri()}/methods_cam.html")
        filters = page.evaluate("getComputedStyle(document.querySelector('main img')).filter")
        assert ("brightness" in filters) == (scheme == "dark")
