"""Render the sections to a single HTML file that embeds markup, style, scripts, pictures and numbers."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pellucid.report._head import Head, head
from pellucid.report._material import Material
from pellucid.report._mistakes import Mistake, mistakes
from pellucid.report._section import Maker, Section
from pellucid.report._summary import write_summary
from pellucid.report.sections import SECTIONS
from pellucid.report.sections.explain import palette
from pellucid.report.sections.figures import other_figures
from pellucid.storage.atomic import json_text, write_bytes
from pellucid.storage.store import Store

__all__ = ["fill", "render", "render_report", "write_report"]

MOST_BYTES = 14_500_000
"""Maximum size of the page."""
OVERVIEW = ("curves",)
"""Sections shown next to the verdict, at the top of the page."""
PARTS = {
    "compare_confusion": ("walk_grid.js",),
    "layers": ("walk_grid.js",),
    "draw": ("interpreter.js", "strokes.js"),
    "explain": (
        "explain_maps.js",
        "explain_paint.js",
        "explain_strip.js",
        "explain_certificate.js",
        "explain_export.js",
        "explain_influence.js",
        "explain_channels.js",
    ),
    "channels": ("channel_data.js", "channel_panel.js"),
    "embedding": tuple(f"embedding_{part}.js" for part in ("colours", "draw", "input", "lists", "plane", "query")),
}
"""Scripts of a kind besides KIND.js, which they come before."""
SCALES = (0.5, 0.25, 0.0)
"""Scale factors for figures, tried in turn if dropping epochs does not make the page small enough."""


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of the run in a save folder and, if it has ended, `summary.png`; return the page's path.

    The report is built from run.json, metrics.jsonl, manifest.json and the files listed there, and works for finished,
    interrupted and running runs; it lists missing or damaged files. Raises `SaveError` if the folder contains no run.
    """
    content = render_report(folder)
    path = Path(folder) / "report.html"
    write_bytes(path, content)
    write_summary(folder)
    return path


def render_report(folder: str | Path, served: Mapping[str, Any] | None = None) -> bytes:
    """Return the report of the run in a save folder, as `write_report` writes it; raises the same errors.

    `served` describes the server that sends the page. Such a page has live explanations, for which it may send requests
    to that server.
    """
    store = Store(Path(folder))
    store.check_run("run.json", "manifest.json")
    # text from damaged files can contain lone surrogates, which UTF-8 cannot encode
    return render(Material(store, served=served)).encode("utf-8", "replace")


def render(material: Material) -> str:
    """Render the report of a run, with fewer epochs and then smaller figures until it has at most `MOST_BYTES`."""
    page = ""
    # the size is only known after rendering; the first version usually fits
    for smaller in _smaller(material):
        page = _render(smaller)
        if len(page.encode("utf-8", "replace")) <= MOST_BYTES:
            break
    return page


def _smaller(material: Material) -> Iterator[Material]:
    """Yield the material itself, then reduced versions; the first, the best and the last epoch are always kept."""
    yield material
    epochs, step = material.epochs, 2
    kept = set(epochs)
    # every second epoch, then every fourth, …, until only the first, best and last are left
    while len(kept) > 3 and step < 2 * len(epochs):
        best = [epoch for epoch in epochs if epoch == material.best_epoch]
        kept = {epochs[0], epochs[-1], *epochs[::step], *best}
        # a new list, because each version notes the same damages again
        yield replace(material, left_out=frozenset(set(epochs) - kept), damages=[])
        step *= 2
    for scale in SCALES:
        yield replace(material, left_out=frozenset(set(epochs) - kept), scale=scale, damages=[])


def _render(material: Material) -> str:
    # before the head, since building them notes the damages that the page lists
    sections = _sections(material)
    return fill(head(material), sections, material.classes, material)


def fill(top: Head, sections: Sequence[Section], classes: Sequence[str], material: Material | None = None) -> str:
    """Fill the page template with a header and sections; `material` is the run, if the page shows one."""
    bodies = {section.name: body for section in sections if (body := _body(section, material)) is not None}
    sections = [section for section in sections if section.name in bodies]
    kinds = list(dict.fromkeys(section.kind for section in sections))
    # page.js defines the registry that the other scripts enter
    parts = [name for kind in kinds for name in (*PARTS.get(kind, ()), f"{kind}.js")]
    names = ["page.js", "maps.js", "thumbnails.js", *parts]
    script = "\n".join([*map(_asset, names), "pellucid.start();"])
    style = "\n".join([_asset("page.css"), *(_asset(f"{kind}.css") for kind in kinds if _has_asset(f"{kind}.css"))])
    epochs = [] if material is None else material.epochs
    return (
        _environment()
        .get_template("page.html")
        .render(
            head=top,
            sections=[section for section in sections if section.name not in OVERVIEW],
            mistakes=_mistakes(material),
            bodies=bodies,
            names={section.name: section.short_title for section in sections},
            overview=[section for section in sections if section.name in OVERVIEW],
            epochs=epochs,
            damages=[] if material is None else material.damages,
            is_served=material is not None and material.served is not None,
            style=style,
            script=script,
            # the page's security policy allows only the script with this hash
            script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            data=_json(_data(epochs, classes, sections, None if material is None else material.best_epoch)),
            # one script element per section, so that each is parsed only when the section is created
            section_data={section.name: _json(section.data) for section in sections},
            guides=set() if material is None else _guides(material),
        )
    )


@cache
def _environment() -> Environment:
    # StrictUndefined: a misspelled variable raises an error instead of leaving a gap
    loader = PackageLoader("pellucid.report", "page")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _sections(material: Material) -> list[Section]:
    made = [section for make in SECTIONS if (section := _made(make, material))]
    shown = [section.name if section.hook is None else section.hook for section in made]
    hooks = [hook for one in shown for hook in ([one] if isinstance(one, str) else one)]
    return made + other_figures(material, hooks)


def _made(make: Maker, material: Material) -> Section | None:
    return material.attempt(f"The section {make.__qualname__}", lambda: make(material), None)


def _mistakes(material: Material | None) -> list[Mistake]:
    absent: list[Mistake] = []
    return absent if material is None else material.attempt("Misclassified images", lambda: mistakes(material), absent)


def _body(section: Section, material: Material | None) -> str | None:
    """Return the markup of a section; None, with a note, if a section of a run's page cannot be rendered."""

    def body() -> str:
        return _environment().get_template(f"{section.kind}.html").render(section=section)

    return body() if material is None else material.attempt(f"The section {section.name}", body, None)


def _data(
    epochs: Sequence[int], classes: Sequence[str], sections: Sequence[Section], best: int | None
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        # the page explains the network of the best checkpoint
        "best": best,
        "classes": classes,
        "palette": palette(),
        "sections": {section.name: section.kind for section in sections},
        "withImages": [section.name for section in sections if section.data.get("has_images")],
    }


def _json(record: Any) -> str:
    """Format JSON for a script element; escapes <, > and & so that no text in it can close the element."""
    # a class named </script> would otherwise end the script element
    return json_text(record).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _guides(material: Material) -> set[str]:
    """Return the documentation pages available in the save folder, to avoid dead links; a server sends none."""
    if material.served is not None:
        return set()
    return {page.stem for page in (material.store.folder / "docs").glob("*.html")}


@cache
def _asset(name: str) -> str:
    return (files("pellucid.report") / "page" / name).read_text(encoding="utf-8")


def _has_asset(name: str) -> bool:
    return (files("pellucid.report") / "page" / name).is_file()
