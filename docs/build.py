"""Build the documentation site: `python docs/build.py FOLDER`.

pdoc writes one page per module; this file adds the guides (README and the Markdown files beside it) as pages of their
own, and turns the formulas of both (between single or double dollar signs) into MathML while building. The site loads
nothing from anywhere: it opens from disk with the network cut.
"""

import re
import shutil
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pdoc.doc
import pdoc.render
import pdoc.render_helpers
import pdoc.search
from latex2mathml.converter import convert

import pellucid

ROOT = Path(__file__).resolve().parents[1]

GUIDES = {
    "index": ROOT / "README.md",
    "architecture": ROOT / "docs" / "architecture.md",
    "evaluation": ROOT / "docs" / "evaluation.md",
    "rules": ROOT / "docs" / "rules.md",
    "jacobian": ROOT / "docs" / "jacobian.md",
    "glossary": ROOT / "docs" / "glossary.md",
    "dependencies": ROOT / "docs" / "dependencies.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
"""The guides in the order of the menu: name of the page, and its source."""

CONTRACTS = ("pellucid.data._source", "pellucid.hooks._hook")
"""Private modules that get a page, because whoever adds a data set or a hook reads them."""

LINK_TO_MARKDOWN = re.compile(r"\]\((?!\w+:)(?:[\w.-]+/)*([\w-]+)\.md(#[\w-]+)?\)")
CODE_OR_FORMULA = re.compile(
    r"""
    (?P<fence>^[ ]*```.*?^[ ]*```[ ]*$)
    | (?P<example>^[ ]*(?:>>>|\.\.\.)[ ].*?$)
    | (?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)
    | \$\$(?P<block>[^$]+)\$\$
    | (?<![\\$])\$(?=\S)(?P<inline>(?:[^$\n]|\n(?!\s*\n))+)(?<=\S)\$(?!\d)
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
PLACE = "\ue000{}\ue001"
"""Stands for a formula while Markdown is at work, which would take its underscores and stars for its own."""
PLACES = re.compile("\ue000(\\d+)\ue001")

MATHML = re.compile(r"<math .*?</math>", re.DOTALL)
PREFORMATTED = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
SHOWN_AS_TYPED = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)


class Html(str):
    """HTML with its table of contents, as pdoc's templates expect it."""

    __slots__ = ("toc_html",)
    toc_html: str | None


def build(folder: Path) -> list[str]:
    """Write the site into `folder`, and return what is wrong with its formulas: one line each, none if all is well."""
    clear(folder)
    modules = load_modules()
    pdoc.render.env.filters["to_html"] = to_html
    vars(pdoc.search)["to_html"] = to_html  # the search shows docstrings too, and offers no setting for it
    pdoc.render.configure(
        docformat="markdown",
        footer_text=f"pellucid {version('pellucid')}",
        template_directory=ROOT / "docs" / "templates",
    )
    titles = {name: title_of(source) for name, source in GUIDES.items()}
    pdoc.render.env.globals.update(guides=titles, site_modules=list(modules))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")  # what pdoc could not find is a mistake of ours
        for name, module in modules.items():
            write(folder / f"{name.replace('.', '/')}.html", pdoc.render.html_module(module, modules))
        write(folder / "search.js", pdoc.render.search_index(modules))
    for name in GUIDES:
        write(folder / f"{name}.html", guide_page(name))
    pictures = ROOT / "docs" / "pictures"
    if pictures.is_dir():
        shutil.copytree(pictures, folder / "pictures")
    return [
        f"{page.relative_to(folder)}: {fault}"
        for page in sorted(folder.rglob("*.html"))
        for fault in formula_faults(page.read_text(encoding="utf-8"))
    ]


def clear(folder: Path) -> None:
    """An empty folder where an earlier site was; anything else in it is left alone, and an error."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "pellucid.html").is_file():
            sys.exit(f"{folder} holds something that is no site of ours; name an empty or a new folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def load_modules() -> dict[str, pdoc.doc.Module]:
    """Every module that gets a page, imported, with the public names that are loaded on first use loaded."""
    found = [module.name for module in walk_packages(pellucid.__path__, "pellucid.")]
    names = ["pellucid", *sorted(name for name in found if "._" not in name or name in CONTRACTS)]
    modules = {name: import_module(name) for name in names}
    for module in modules.values():
        for name in getattr(module, "__all__", ()):
            vars(module).setdefault(name, getattr(module, name))
    for name in pellucid.__all__:
        value = getattr(pellucid, name)
        # pdoc reads what the package holds by now; a package that is also a function is shown as the function
        vars(pellucid)[name] = getattr(value, name) if isinstance(value, ModuleType) and callable(value) else value
    return {name: pdoc.doc.Module(module) for name, module in modules.items()}


def to_html(text: str) -> Html:
    """Markdown as HTML, with formulas as MathML; what stands in code is left as typed."""
    formulas: list[str] = []

    def set_aside(found: re.Match[str]) -> str:
        latex = found["block"] or found["inline"]
        if latex is None:
            return found[0]
        formulas.append(convert(latex.strip(), display="block" if found["block"] else "inline"))
        return PLACE.format(len(formulas) - 1)

    rendered = pdoc.render_helpers.to_html(CODE_OR_FORMULA.sub(set_aside, text))
    page = Html(PLACES.sub(lambda place: formulas[int(place[1])], rendered))
    page.toc_html = getattr(rendered, "toc_html", None)
    return page


def write(path: Path, text: str) -> None:
    """Write one file of the site."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def title_of(source: Path) -> str:
    """The first heading of a Markdown file."""
    return source.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def guide_page(name: str) -> str:
    """One Markdown file as a page that looks like the others; links between the files lead to their pages."""
    text = GUIDES[name].read_text(encoding="utf-8").replace("](docs/pictures/", "](pictures/")
    text = text.replace('src="docs/pictures/', 'src="pictures/')
    page_of = {source.stem: page for page, source in GUIDES.items()}
    text = LINK_TO_MARKDOWN.sub(lambda link: f"]({page_of[link[1]]}.html{link[2] or ''})", text)
    template = pdoc.render.env.get_template("guide.html.jinja2")
    return template.render(guide=name, content=to_html(text), all_modules={})


def formula_faults(page: str) -> list[str]:
    r"""What is left of a formula that was not understood: a dollar sign, a command such as `\foo`, MathML in code."""
    prose = SHOWN_AS_TYPED.sub("", MATHML.sub("", page)).splitlines()
    return [
        *(f"a formula holds a command that MathML lacks: {math}" for math in MATHML.findall(page) if "\\" in math),
        *(f"code was taken for a formula; fence it: {code}" for code in PREFORMATTED.findall(page) if "<math " in code),
        *(f"a dollar sign is left where a formula begins or ends: {line.strip()}" for line in prose if "$" in line),
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/build.py FOLDER (an earlier site in it is replaced)")
    target = Path(sys.argv[1])
    found_faults = build(target)
    if found_faults:
        sys.exit("\n".join(found_faults))
    sys.stdout.write(f"The site is at {target / 'index.html'}\n")
