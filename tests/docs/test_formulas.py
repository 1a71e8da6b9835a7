"""Tests of the conversion of Markdown pages, formulas and notebooks to HTML."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """Import docs/build.py as a module."""
    pytest.importorskip("pdoc", reason="pdoc is not installed (it comes with the extra `docs`)")
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # the script imports a module beside it, as a script does
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
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
def test_dollar_signs_in_code_are_not_formulas(site: ModuleType, text: str) -> None:
    page = site.to_html(text)
    assert "<math" not in page
    assert "$" in page
    assert site.formula_faults(page) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (r"$\nosuchcommand x$", "unsupported command"),
        ("it costs $5", "unmatched dollar sign"),
        ("an open $x + y\n\nand the end$", "unmatched dollar sign"),
        ("text\n\n    indented $x$\n", "formula inside unfenced code"),
    ],
)
def test_unconverted_formulas_are_reported(site: ModuleType, text: str, fault: str) -> None:
    (message,) = {line.partition(":")[0] for line in site.formula_faults(site.to_html(text))}
    assert fault in message


def test_an_unrelated_folder_is_not_overwritten(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit, match="not a site built by this script"):
        site.build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_links_between_guides_are_recognized(site: ModuleType) -> None:
    pattern = site.LINK_TO_MARKDOWN
    assert pattern.search("[a](docs/architecture.md#the-layers)").groups() == ("architecture", "#the-layers")
    assert pattern.search("[a](../CONTRIBUTING.md)").groups() == ("CONTRIBUTING", None)
    assert pattern.search("[a](https://example.org/a.md)") is None


def test_page_file_names_are_unique(site: ModuleType) -> None:
    assert len({source.stem for source in site.PAGES.values()}) == len(site.PAGES)  # links identify pages by file name


def test_links_and_pictures_of_nested_pages_are_rewritten(site: ModuleType) -> None:
    text = '[a](../rules.md#deeplift) [b](lrp.md) ![c](../pictures/methods/lrp.png) <img src="docs/pictures/tsne.png">'
    text += " [d](https://example.org/pictures/a.png)"
    expected = (
        '[a](rules.html#deeplift) [b](methods_lrp.html) ![c](pictures/methods/lrp.png) <img src="pictures/tsne.png">'
    )
    assert site.relinked(text) == expected + " [d](https://example.org/pictures/a.png)"


def test_notebooks_are_rendered_with_outputs(site: ModuleType) -> None:
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
