"""Sections → one HTML file: markup, style, scripts, pictures and numbers in it, nothing loaded from anywhere."""

import hashlib
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pellucid.artifacts._atomic import json_text, write_bytes
from pellucid.artifacts.store import Store
from pellucid.core.errors import SaveError
from pellucid.report._head import head
from pellucid.report._material import Material
from pellucid.report._section import Section
from pellucid.report.sections import SECTIONS

__all__ = ["render", "write_report"]


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of the run in a save folder, and return its path.

    The page is made of run.json, metrics.jsonl, manifest.json and the files that it lists, whatever state the run is
    in; what is missing or damaged is told on the page. Raises `SaveError` for a folder that holds no run.
    """
    store = Store(Path(folder))
    if not any((store.folder / name).is_file() for name in ("run.json", "manifest.json")):
        raise SaveError(f"{folder} holds no run: there is no run.json; give the --save folder of `python runner.py`.")
    path = store.folder / "report.html"
    write_bytes(path, render(Material(store)).encode())
    return path


def render(material: Material) -> str:
    """The page of a run."""
    sections = [section for make in SECTIONS if (section := make(material)) is not None]
    kinds = dict.fromkeys(one.kind for one in sections)
    scripts = [_asset("page.js"), *(_asset(f"{kind}.js") for kind in kinds)]
    styles = [_asset("page.css"), *(_asset(f"{kind}.css") for kind in kinds if _has_asset(f"{kind}.css"))]
    script = "\n".join([*scripts, "pellucid.start();"])
    environment = Environment(
        loader=PackageLoader("pellucid.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        head=head(material),
        sections=sections,
        epochs=material.epochs,
        damages=material.damages,
        style=Markup("\n".join(styles)),  # noqa: S704  (our own files)
        script=Markup(script),  # noqa: S704  (our own files)
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_json(_data(material, sections)),
        guides=_guides(material),
    )


def _data(material: Material, sections: list[Section]) -> dict[str, Any]:
    return {
        "epochs": material.epochs,
        "classes": material.classes,
        "sections": {section.name: {"kind": section.kind, "data": section.data} for section in sections},
    }


def _json(record: Any) -> Markup:
    """JSON that cannot end the element it stands in, whatever its texts are."""
    text = json_text(record)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _guides(material: Material) -> set[str]:
    """The pages of the documentation that lie beside the report, so that no link leads nowhere."""
    return {page.stem for page in (material.store.folder / "docs").glob("*.html")}


def _has_asset(name: str) -> bool:
    return (files("pellucid.report") / "page" / name).is_file()


def _asset(name: str) -> str:
    return (files("pellucid.report") / "page" / name).read_text(encoding="utf-8")
