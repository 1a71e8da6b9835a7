"""Build the documentation site: `python docs/build.py FOLDER`.

pdoc writes one page per module. This script adds the guides (README and the other Markdown files) as pages, and
converts formulas (between single or double dollar signs) to MathML at build time. The site loads nothing from the
network, so it opens from disk.
"""

import html
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pdoc.doc
import pdoc.doc_ast
import pdoc.render
import pdoc.render_helpers
from latex2mathml.converter import convert
from pygments.formatters import HtmlFormatter
from search_index import api_entries, guide_entry, index_script

import pellucid

ROOT = Path(__file__).resolve().parents[1]

GUIDES = {
    "index": ROOT / "README.md",
    "architecture": ROOT / "docs" / "architecture.md",
    "evaluation": ROOT / "docs" / "evaluation.md",
    "recordings": ROOT / "docs" / "recordings.md",
    "label_errors": ROOT / "docs" / "label_errors.md",
    "influence": ROOT / "docs" / "influence.md",
    "calibration": ROOT / "docs" / "calibration.md",
    "out_of_distribution": ROOT / "docs" / "out_of_distribution.md",
    "robustness": ROOT / "docs" / "robustness.md",
    "slices": ROOT / "docs" / "slices.md",
    "rules": ROOT / "docs" / "rules.md",
    "explain": ROOT / "docs" / "explain.md",
    "report": ROOT / "docs" / "report.md",
    "stored": ROOT / "docs" / "stored.md",
    "compare": ROOT / "docs" / "compare.md",
    "targets": ROOT / "docs" / "targets.md",
    "layers": ROOT / "docs" / "layers.md",
    "concepts": ROOT / "docs" / "concepts.md",
    "coverage": ROOT / "docs" / "coverage.md",
    "jacobian": ROOT / "docs" / "jacobian.md",
    "prototypes": ROOT / "docs" / "prototypes.md",
    "your_model": ROOT / "docs" / "your_model.md",
    "your_data": ROOT / "docs" / "your_data.md",
    "scale": ROOT / "docs" / "scale.md",
    "extending": ROOT / "docs" / "extending.md",
    "glossary": ROOT / "docs" / "glossary.md",
    "integrations": ROOT / "docs" / "integrations.md",
    "dependencies": ROOT / "docs" / "dependencies.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
"""The guides in menu order: page name to source file."""

METHODS = (
    "overview",
    "gradient",
    "taylor",
    "smoothgrad",
    "integrated_gradients",
    "guided_backprop",
    "lrp",
    "deep_taylor",
    "deeplift",
    "excitation_backprop",
    "pattern",
    "cam",
    "perturbation",
    "attention",
    "controls",
)
"""The pages of docs/methods, in menu order."""

MENU = {
    "": GUIDES,
    "Methods": {f"methods_{name}": ROOT / "docs" / "methods" / f"{name}.md" for name in METHODS},
    "Walkthrough": {
        f"walkthrough_{path.stem}": path for path in sorted((ROOT / "docs" / "walkthrough").glob("*.ipynb"))
    },
}
"""Menu groups by heading; the first one has no heading."""

PAGES = {name: source for group in MENU.values() for name, source in group.items()}

FIRST_NAMES = (
    "explain",
    "create_analyzer",
    "methods",
    "Analyzer",
    "Explanation",
    "Contrast",
    "evaluate",
    "Evaluation",
    "recommend",
    "Recommended",
    "explain_to_disk",
    "open_explanations",
    "inspect",
    "watch",
    "Watcher",
    "load_run",
    "Run",
    "prototypes",
    "concepts",
    "influence",
    "label_errors",
    "fit_density",
    "jacobian",
    "jacobian_report",
    "augment",
    "save_fitted",
    "load_fitted",
)
"""Key names, in the order in which they are needed; the page of the package begins with them."""

CONTRACTS = ("pellucid.data._source", "pellucid.hooks._hook")
"""Private modules that get a page, since authors of data sets and hooks need them."""

# Links to addresses with a scheme (https:) are left alone by the lookahead.
LINK_TO_MARKDOWN = re.compile(r"\]\((?!\w+:)(?:[\w.-]+/)*([\w-]+)\.(?:md|ipynb)(#[\w-]+)?\)")
LINK_TO_PICTURE = re.compile(r"(?<=\]\(|=\")(?!\w+:)(?:[\w.-]+/)*(pictures/[\w./-]+)")
# Code comes first in the alternation, so a dollar sign in code never opens a formula.
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
PLACEHOLDER = "\ue000{}\ue001"
"""Placeholder for a formula in private-use characters, so that Markdown leaves underscores and stars alone."""
PLACEHOLDERS = re.compile("\ue000(\\d+)\ue001")

MATHML = re.compile(r"<math .*?</math>", re.DOTALL)
PREFORMATTED = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
SHOWN_AS_TYPED = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)


class Html(str):
    """HTML with its table of contents, as pdoc's templates expect it."""

    __slots__ = ("toc_html",)
    toc_html: str | None


def build(folder: Path, executed: Path | None = None) -> list[str]:
    """Write the site into `folder` and return the faults in its formulas, one line each; empty if there are none.

    `executed` is a folder with the executed walkthrough notebooks, as written by `docs/execute.py`.
    """
    clear(folder)
    modules = load_modules()
    document_options()
    document_exports()
    pdoc.render.env.filters["to_html"] = to_html
    pdoc.render.configure(
        docformat="markdown",
        footer_text=f"pellucid {version('pellucid')}",
        template_directory=ROOT / "docs" / "templates",
    )
    titles = {name: title_of(source) for name, source in PAGES.items()}
    menu = {heading: {name: titles[name] for name in group} for heading, group in MENU.items()}
    pdoc.render.env.globals.update(
        guides=titles,
        menu_groups=menu,
        site_modules=list(modules),
        first_names={name: first_sentence(getattr(pellucid, name)) for name in FIRST_NAMES},
        dark_code=HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code"),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")  # a name that pdoc cannot resolve is our mistake
        for name, module in modules.items():
            page = pdoc.render.html_module(module, modules)
            # screen readers cannot name a link without text
            page = page.replace('<a class="headerlink"', '<a class="headerlink" aria-label="Link to this name"')
            write(folder / f"{name.replace('.', '/')}.html", page)
    guides = []
    for name, source in PAGES.items():
        shown = executed / source.name if executed and source.suffix == ".ipynb" else source
        content = guide_content(shown)
        write(folder / f"{name}.html", guide_page(name, content))
        guides.append(guide_entry(name, titles[name], group_of(name), content, source.read_text(encoding="utf-8")))
    guides.append(first_names_entry())
    write(folder / "search.js", index_script(guides, api_entries(modules)))
    pictures = ROOT / "docs" / "pictures"
    if pictures.is_dir():
        shutil.copytree(pictures, folder / "pictures")
    return [
        f"{page.relative_to(folder)}: {fault}"
        for page in sorted(folder.rglob("*.html"))
        for fault in formula_faults(page.read_text(encoding="utf-8"))
    ]


def clear(folder: Path) -> None:
    """Empty the folder if it contains an earlier site; exit with an error if it contains anything else."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "pellucid.html").is_file():
            sys.exit(f"{folder} is not empty and not a site built by this script. Choose an empty or new folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def load_modules() -> dict[str, pdoc.doc.Module]:
    """Import every module that gets a page, and resolve its lazily loaded public names."""
    available = [module.name for module in walk_packages(pellucid.__path__, "pellucid.")]
    names = ["pellucid", *sorted(name for name in available if "._" not in name or name in CONTRACTS)]
    # these import optional libraries, and inherit from their classes; the guide on integrations describes them
    names = [name for name in names if not name.startswith("pellucid.integrations.")]
    modules = {name: import_module(name) for name in names}
    for module in modules.values():
        for name in getattr(module, "__all__", ()):
            vars(module).setdefault(name, getattr(module, name))  # pdoc reads the package's namespace
    return {name: pdoc.doc.Module(module) for name, module in modules.items()}


def document_options() -> None:
    """Show the descriptions of options that a method declares as parameters of a function (`attribution.variant`)."""
    read = vars(pdoc.doc.Class)["_var_docstrings"].func

    def descriptions(self: pdoc.doc.Class) -> dict[str, str]:
        options = fields(self.obj) if is_dataclass(self.obj) else ()
        return {**read(self), **{one.name: one.metadata["doc"] for one in options if one.metadata.get("doc")}}

    # pdoc itself finds descriptions in the source of a class, and these classes have none.
    replace_var_docstrings(pdoc.doc.Class, descriptions)


def document_exports() -> None:
    """Show the description of a variable, such as a type, also on the page of a package that exports it."""
    read = vars(pdoc.doc.Module)["_var_docstrings"].func

    def descriptions(self: pdoc.doc.Module) -> dict[str, str]:
        homes = [module for name, module in [*sys.modules.items()] if name.startswith("pellucid.")]
        found = {}
        for name in getattr(self.obj, "__all__", ()):
            value = getattr(self.obj, name)
            for home in homes:
                # by identity: a module that merely has the same name for something else describes something else
                if vars(home).get(name) is value and (text := pdoc.doc_ast.walk_tree(home).var_docstrings.get(name)):
                    found[name] = text
        return {**found, **read(self)}

    replace_var_docstrings(pdoc.doc.Module, descriptions)


def replace_var_docstrings(kind: Any, descriptions: Callable[[Any], dict[str, str]]) -> None:
    """Let pdoc look up the descriptions of variables with another function."""
    kind._var_docstrings = cached_property(descriptions)
    kind._var_docstrings.__set_name__(kind, "_var_docstrings")


def to_html(text: str) -> Html:
    """Convert Markdown to HTML, with formulas as MathML; code is left unchanged."""
    formulas: list[str] = []

    def extract_formula(match: re.Match[str]) -> str:
        latex = match["block"] or match["inline"]
        if latex is None:
            return match[0]  # code
        formulas.append(convert(latex.strip(), display="block" if match["block"] else "inline"))
        return PLACEHOLDER.format(len(formulas) - 1)

    rendered = pdoc.render_helpers.to_html(CODE_OR_FORMULA.sub(extract_formula, text))
    page = Html(PLACEHOLDERS.sub(lambda match: formulas[int(match[1])], rendered))
    page.toc_html = getattr(rendered, "toc_html", None)
    return page


def first_sentence(value: Any) -> str:
    """Return the first sentence of a docstring, as plain text."""
    paragraph = (value.__doc__ or "").strip().partition("\n\n")[0]
    return re.split(r"(?<=\.)\s", re.sub(r"\s+", " ", paragraph))[0].replace("`", "")


def first_names_entry() -> dict[str, Any]:
    """Return the search index's entry of the page of the package."""
    names = "".join(f"<p>{name}: {first_sentence(getattr(pellucid, name))}</p>" for name in FIRST_NAMES)
    content = f'<h1 id="first-names">Key names</h1>{names}'
    return guide_entry("pellucid", "API: key names", "API", content, "")


def write(path: Path, text: str) -> None:
    """Write one file of the site."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def title_of(source: Path) -> str:
    """Return the first heading of a Markdown file or notebook."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return text.partition("\n")[0].lstrip("# ")


def group_of(name: str) -> str:
    """Return the kind of a page, as search results state it."""
    heading = next(heading for heading, pages in MENU.items() if name in pages)
    return {"": "Guide", "Methods": "Method"}.get(heading, heading)


def guide_content(source: Path) -> str:
    """Render a Markdown file or notebook."""
    text = source.read_text(encoding="utf-8")
    return notebook_html(json.loads(text)) if source.suffix == ".ipynb" else to_html(relinked(text))


def guide_page(name: str, content: str) -> str:
    """Return the page of a rendered guide."""
    return pdoc.render.env.get_template("guide.html.jinja2").render(guide=name, content=content, all_modules={})


def relinked(text: str) -> str:
    """Rewrite links between Markdown files to their pages, and picture paths to the site's folder."""
    page_of = {source.stem: page for page, source in PAGES.items()}
    text = LINK_TO_MARKDOWN.sub(lambda link: f"]({page_of[link[1]]}.html{link[2] or ''})", text)
    return LINK_TO_PICTURE.sub(r"\1", text)


def notebook_html(notebook: dict[str, Any]) -> str:
    """Render the cells of a notebook, with outputs if it has been executed."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(to_html(relinked(text) if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"))
        parts += [output_html(output) for output in cell.get("outputs", [])]
    return "\n".join(parts)


def output_html(output: dict[str, Any]) -> str:
    """Render the output of a cell: a picture or text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        png = "".join(data["image/png"]).strip()
        return f'<p><img alt="output of the code above" src="data:image/png;base64,{png}"></p>'
    return f'<pre class="output">{html.escape("".join(data["text/plain"]).rstrip())}</pre>'


def formula_faults(page: str) -> list[str]:
    r"""Find formulas that failed to convert: stray dollar signs, commands such as `\foo`, MathML inside code."""
    prose = SHOWN_AS_TYPED.sub("", MATHML.sub("", page)).splitlines()
    return [
        *(f"formula with an unsupported command: {math}" for math in MATHML.findall(page) if "\\" in math),
        *(f"formula inside unfenced code: {code}" for code in PREFORMATTED.findall(page) if "<math " in code),
        *(f"unmatched dollar sign: {line.strip()}" for line in prose if "$" in line),
    ]


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/build.py FOLDER [EXECUTED NOTEBOOKS] (replaces an earlier site in FOLDER)")
    target, *shown_notebooks = map(Path, sys.argv[1:])
    faults = build(target, *shown_notebooks)
    if faults:
        sys.exit("\n".join(faults))
    sys.stdout.write(f"The site is at {target / 'index.html'}\n")
