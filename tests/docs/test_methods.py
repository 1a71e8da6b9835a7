"""Tests of docs/methods: every method has a page, pages are complete, and their examples run."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import pellucid
from pellucid.attribution import METHODS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path for path in (DOCS / "methods").glob("*.md") if path.stem != "overview")
HEADINGS = ["Formula", "Use", "When it misleads", "Source"]
LARGEST_PICTURE = 150_000


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def methods_of(page: Path) -> list[str]:
    """Return the methods listed in a page's `**Methods:**` line."""
    match = re.search(r"^\*\*Methods:\*\* (.*?)\n\n", text_of(page), re.DOTALL | re.MULTILINE)
    assert match is not None, f"{page.name} has no **Methods:** line"
    return re.findall(r"`([\w.]+)`", match[1])


def test_every_method_has_exactly_one_page() -> None:
    pages = Counter(name for page in PAGES for name in methods_of(page))
    assert pages == Counter(METHODS.names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_complete(page: Path) -> None:
    text = text_of(page)
    assert "**What it answers:**" in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert "$$" in text
    assert re.search(r"\((19|20)\d\d\)", text.partition("## Source")[2])
    assert f"{page.stem}.md" in text_of(DOCS / "methods" / "overview.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_has_a_small_picture(page: Path) -> None:
    (name,) = re.findall(r"^!\[[^\]]+\]\(\.\./pictures/methods/(\w+\.png)\)$", text_of(page), re.MULTILINE)
    path = DOCS / "pictures" / "methods" / name
    assert path.stem == page.stem
    assert path.stat().st_size < LARGEST_PICTURE
    with Image.open(path) as picture:
        assert picture.mode == "P"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)]
    images = torch.rand(3, 1, 8, 8)
    names = {"pellucid": pellucid, "model": nn.Sequential(*layers), "images": images, "loader": [images]}
    examples = re.findall(r"^```python\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example, str(page), "exec"), names)
