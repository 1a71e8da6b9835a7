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
