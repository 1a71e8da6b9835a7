"""The search index of the documentation site: the text of the guides by section, and the public names of the API."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pdoc.doc

from pellucid.attribution._aliases import ALIASES

__all__ = ["api_entries", "guide_entry", "index_script"]

WEIGHTS = {"changelog": 0.2, "contributing": 0.4, "dependencies": 0.4, "coverage": 0.6, "pellucid": 0.6}
"""Pages that mention almost everything, and so are rarely what somebody looks for."""
METHODS_LINE = re.compile(r"^\*\*Methods:\*\* (.*?)\n\n", re.DOTALL | re.MULTILINE)
LONGEST_LINE = 200


class Sections(HTMLParser):
    """The sections of a rendered guide: anchor, heading and text; the first one has the page's title."""

    HIDDEN = frozenset({"math", "script", "style"})
    BLOCKS = frozenset({"p", "li", "pre", "td", "th", "div", "br"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.sections: list[list[str]] = []
        self._is_heading, self._hidden = False, 0
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Begin a section at a heading, and skip formulas."""
        if tag in ("h1", "h2", "h3"):
            self.sections.append([dict(attributes).get("id") or "", "", ""])
            self._is_heading = True
        elif tag in self.HIDDEN:
            self._hidden += 1
        elif tag in self.BLOCKS:
            self._add(" ")

    def handle_endtag(self, tag: str) -> None:
        """End a heading or a formula."""
        if tag in ("h1", "h2", "h3"):
            self._is_heading = False
        elif tag in self.HIDDEN:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        """Add text."""
        if not self._hidden:
            self._add(data)

    def _add(self, text: str) -> None:
        if self.sections:
            self.sections[-1][1 if self._is_heading else 2] += text


def guide_entry(name: str, title: str, group: str, content: str, source: str) -> dict[str, Any]:
    """Return the entry of a guide, from its rendered content and its Markdown source."""
    match = METHODS_LINE.search(source)
    methods = re.findall(r"`([\w.]+)`", match[1]) if match else []
    aliases = [alias for alias, (method, _) in ALIASES.items() if method in methods]
    sections = [
        [anchor, *(re.sub(r"\s+", " ", text).strip() for text in rest)] for anchor, *rest in Sections(content).sections
    ]
    return {
        "title": title,
        "url": f"{name}.html",
        "group": group,
        "names": [*methods, *aliases],
        "weight": WEIGHTS.get(name, 1.0),
        "sections": sections,
    }


def api_entries(modules: Mapping[str, pdoc.doc.Module]) -> list[dict[str, Any]]:
    """Return one entry per documented name; a name that several packages export is listed once, at its shortest."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for module in sorted(modules.values(), key=lambda module: (module.fullname.count("."), module.fullname)):
        for member in _public(module):
            found.setdefault(member.taken_from, _entry(member))
    return list(found.values())


def _public(namespace: "pdoc.doc.Namespace[Any]") -> Iterator[pdoc.doc.Doc[Any]]:
    """Yield the documented members of a module or class, and of the classes in it."""
    if isinstance(namespace, pdoc.doc.Module):
        yield namespace
    for member in namespace.own_members:
        if member.kind == "module" or member.name.startswith("_") or not member.docstring.strip():
            continue
        yield member
        if isinstance(member, pdoc.doc.Class):
            yield from _public(member)


def _entry(member: pdoc.doc.Doc[Any]) -> dict[str, Any]:
    line = member.docstring.strip().partition("\n\n")[0].replace("\n", " ").replace("`", "")
    page = member.modulename.replace(".", "/")
    return {
        "name": member.fullname,
        "kind": member.kind,
        "url": f"{page}.html" + (f"#{member.qualname}" if member.qualname else ""),
        "line": line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…",
    }


def index_script(guides: Iterable[Mapping[str, Any]], names: Iterable[Mapping[str, Any]]) -> str:
    """Return the index as a script, since pages opened from disk cannot fetch JSON."""
    content = json.dumps({"guides": list(guides), "names": list(names)}, ensure_ascii=False, separators=(",", ":"))
    return f"window.siteIndex = {content};\n"
