"""Formulas become MathML, and nothing else does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/build.py as a module."""
    pytest.importorskip("pdoc", reason="pdoc is not installed (it comes with the extra `docs`)")
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_survive_markdown(site: ModuleType) -> None:
    page = site.to_html("The share $a_i * b_i * c$ of\n$x_1 +\nx_2$.\n\n$$\n\\nabla f \\neq 0\n$$\n")
    assert page.count("<math") == 3
    assert page.count('display="block"') == 1
    assert "<em>" not in page
    assert "&#x02207;" in page  # nabla
    assert "&#x02260;" in page  # not equal
    assert site.formula_faults(page) == []


@pytest.mark.parametrize(
    "text",
    [
        "`$HOME` and `$PATH`",
        "``a`$b$``",
        "```bash\necho $HOME $PATH\n```",
        "1. item\n\n   ```bash\n   echo $HOME $PATH\n   ```",
        '>>> print("$a$ $b$")',
    ],
)
def test_code_stays_as_typed(site: ModuleType, text: str) -> None:
    page = site.to_html(text)
    assert "<math" not in page
    assert "$" in page
    assert site.formula_faults(page) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (r"$\nosuchcommand x$", "command that MathML lacks"),
        ("it costs $5", "dollar sign"),
        ("an open $x + y\n\nand the end$", "dollar sign"),
        ("text\n\n    indented $x$\n", "taken for a formula"),
    ],
)
def test_what_was_not_understood_is_told(site: ModuleType, text: str, fault: str) -> None:
    (told,) = {line.partition(":")[0] for line in site.formula_faults(site.to_html(text))}
    assert fault in told


def test_a_folder_that_is_no_site_is_left_alone(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit, match="holds something"):
        site.build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_links_between_the_guides_lead_to_their_pages(site: ModuleType) -> None:
    pattern = site.LINK_TO_MARKDOWN
    assert pattern.search("[a](docs/architecture.md#the-layers)").groups() == ("architecture", "#the-layers")
    assert pattern.search("[a](../CONTRIBUTING.md)").groups() == ("CONTRIBUTING", None)
    assert pattern.search("[a](https://example.org/a.md)") is None


def test_no_two_pages_have_the_same_file_name(site: ModuleType) -> None:
    assert len({source.stem for source in site.PAGES.values()}) == len(site.PAGES)  # links are told apart by it


def test_links_and_pictures_of_a_page_in_a_folder_lead_into_the_site(site: ModuleType) -> None:
    text = '[a](../rules.md#deeplift) [b](lrp.md) ![c](../pictures/methods/lrp.png) <img src="docs/pictures/tsne.png">'
    text += " [d](https://example.org/pictures/a.png)"
    shown = (
        '[a](rules.html#deeplift) [b](methods_lrp.html) ![c](pictures/methods/lrp.png) <img src="pictures/tsne.png">'
    )
    assert site.relinked(text) == shown + " [d](https://example.org/pictures/a.png)"


def test_a_notebook_is_shown_with_what_its_cells_show(site: ModuleType) -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["1 < 2\n", "done\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Picture>"}},
        {"output_type": "execute_result", "data": {"text/plain": ["tensor(1)"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# 1. Title\n", "with $x_1$ and [LRP](../methods/lrp.md)"]},
        {"cell_type": "code", "source": ["price = '$'"], "outputs": outputs},
    ]
    page = site.notebook_html({"cells": cells})
    assert page.count("<math") == 1
    assert 'href="methods_lrp.html"' in page
    assert '<pre class="output">1 &lt; 2\ndone</pre>' in page
    assert 'src="data:image/png;base64,QUJD"' in page
    assert "<Picture>" not in page
    assert "tensor(1)" in page
    assert site.formula_faults(page) == []
