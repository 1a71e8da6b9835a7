"""The report as HTML: complete, self-contained, limited in size and robust against damaged files."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core.errors import SaveError
from pellucid.report import Material, Section, write_report
from pellucid.report import _head as head_module
from pellucid.report import _page as page_module
from pellucid.report._page import render
from pellucid.storage.store import Store
from pretended_run import data_of, keep, metrics_line, png, run_record, write_run


class Parts(HTMLParser):
    """Tags, ids, URLs and event handlers of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.addresses, self.handlers = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset", "action"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)


def test_sections_are_complete_and_in_order(store):
    path = write_report(store.folder)
    assert path == store.folder / "report.html"
    page = path.read_text()
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sections == [
        "curves",
        "confusion_matrix",
        "hardest",
        "saliency",
        "prototypes",
        "leaderboard",
        "hook-my_hook",
    ]
    ids = Parts(page).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("hook", ["curves", "embedding", "explain", "figures"])
def test_hook_named_like_a_section_is_shown(hook, store):
    keep(store, hook, 1, png(5))
    assert f"hook-{hook}" in data_of(render(Material(store)))["sections"]


def test_page_loads_nothing(store):
    parts = Parts(render(Material(store)))
    assert [address for address in parts.addresses if not address.startswith(("#", "data:image/png;base64,"))] == []
    assert parts.handlers == []
    assert {"link", "iframe", "object", "embed"}.isdisjoint(parts.tags)


def test_documentation_is_linked_if_available(store):
    assert "docs/prototypes.html" not in render(Material(store))
    (store.folder / "docs").mkdir()
    (store.folder / "docs" / "prototypes.html").write_text("guide")
    assert '<a href="docs/prototypes.html">' in render(Material(store))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script>", "<!--"])
def test_names_are_escaped(name, tmp_path, whole):
    classes = (name, "dog", "bird")
    changes = {"config": {"save": name}, "command": f"runner.py --save '{name}'"}
    store = write_run(tmp_path / "save", classes, **changes)
    store.write_run(run_record(classes, **changes, model={"name": name}))
    keep(store, "my_hook", 2, png(1), numbers={"a": 1})
    store.add_failure(name.replace("/", ""), 1, f"Error: {name}", f"Traceback {name}")
    page = render(Material(store))
    untroubled = render(Material(whole))
    # the script, the page's data and those of each section
    assert (
        Parts(page).tags.count("script") == Parts(untroubled).tags.count("script") == 2 + len(data_of(page)["sections"])
    )
    assert Parts(page).tags.count("img") == Parts(untroubled).tags.count("img") == 4  # mistakes
    assert Parts(page).handlers == []
    assert data_of(page)["classes"][0] == name


def test_run_without_epochs(tmp_path):
    store = Store(tmp_path / "save")
    store.write_run(run_record(status="running", test_accuracy=None, timing={"started": "2026-01-31T12:00:00Z"}))
    page = write_report(store.folder).read_text()
    assert "This run was interrupted before the end of the first epoch. Resume it with: python runner.py" in page
    assert "No results yet." in page
    assert data_of(page)["sections"] == {}


def test_metrics_alone_make_the_learning_curves(tmp_path):
    store = Store(tmp_path / "save")
    store.begin(run_record())
    store.add_metrics(metrics_line(0))
    page = render(Material(store))
    assert list(data_of(page)["sections"]) == ["curves"]
    assert 'id="play"' not in page


@pytest.mark.parametrize("kept", [(), ("metrics.jsonl",)])
def test_folder_without_a_run_is_refused(kept, tmp_path):
    for name in kept:
        (tmp_path / name).write_text("{}")
    with pytest.raises(SaveError, match=r"there is no run in .*: run\.json is missing\. Give the folder that"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_and_damaged_files_are_listed_and_the_rest_is_shown(store):
    (store.folder / "plots/saliency/epoch_001.png").unlink()
    (store.folder / "plots/saliency/epoch_002.png").write_bytes(png()[:60])
    (store.folder / "plots/confusion_matrix/epoch_002.json").write_text('{"counts": [[1, 2]]}')
    (store.folder / "plots/hardest/epoch_001.npz").write_bytes(b"PK\3\4 no archive")
    material = Material(store)
    page = render(material)
    assert "Missing or damaged: 4" in page
    assert "plots/saliency/epoch_001.png cannot be shown: No such file or directory." in page
    for name in ("saliency/epoch_002.png", "confusion_matrix/epoch_002.json", "hardest/epoch_001.npz"):
        assert any(f"plots/{name} cannot be shown" in damage for damage in material.damages)
    sections = data_of(page)["sections"]
    assert list(sections["saliency"]["data"]["figures"][0]["pictures"]) == ["0"]
    (store.folder / "plots/saliency/epoch_002.png").write_bytes(b"no picture")
    assert "plots/saliency/epoch_002.png cannot be shown: not a picture." in render(Material(store))
    assert list(sections["confusion_matrix"]["data"]["matrices"]) == ["0", "1"]
    assert list(sections["hardest"]["data"]["cards"]) == ["0", "2"]


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b'{"artifacts": 3, "dataset": [], "epoch": "x"}'])
def test_damaged_record_is_listed(name, content, store):
    (store.folder / name).write_bytes(content)
    page = write_report(store.folder).read_text()
    assert "Missing or damaged: " in page


def test_missing_record_is_listed(store):
    for name in ("manifest.json", "metrics.jsonl"):
        (store.folder / name).unlink()
    page = render(Material(store))
    assert "<li>manifest.json is missing, so no figures can be shown.</li>" in page
    assert "<li>metrics.jsonl is missing or empty.</li>" in page


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "plots/../../secret.png", "plots/\0.png", "link.png"])
def test_files_outside_the_folder_are_not_shown(path, store, tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    (store.folder / "link.png").symlink_to(tmp_path / "secret.png")
    manifest = store.manifest()
    entry = {"hook": "spy", "epoch": 0, "name": "spy", "path": path, "kind": "figure", "caption": "", "numbers": {}}
    (store.folder / "manifest.json").write_text(json.dumps(manifest | {"artifacts": [entry]}))
    page = render(Material(store))
    reason = "invalid" if "\0" in path else "outside the save folder"
    assert f"cannot be shown: its path is {reason}." in page
    assert "hook-spy" not in page


def test_failing_section_is_listed_and_the_others_are_shown(store, monkeypatch):
    def broken(material):
        raise ZeroDivisionError("a / 0")

    monkeypatch.setattr(page_module, "SECTIONS", (broken, *page_module.SECTIONS))
    page = render(Material(store))
    assert "cannot be shown: ZeroDivisionError: a / 0." in page
    assert "saliency" in data_of(page)["sections"]


def test_section_that_cannot_be_rendered_is_listed_and_the_others_are_shown(store, monkeypatch):
    def broken(material):
        return Section("broken", "no_such_kind", "Broken", "", {})

    monkeypatch.setattr(page_module, "SECTIONS", (broken, *page_module.SECTIONS))
    page = render(Material(store))
    assert "The section broken cannot be shown: TemplateNotFound: no_such_kind.html." in page
    assert "broken" not in data_of(page)["sections"]
    assert "saliency" in data_of(page)["sections"]


def test_verdict_that_fails_leaves_the_page(store, monkeypatch):
    def broken(material):
        raise ZeroDivisionError("a / 0")

    monkeypatch.setattr(head_module, "conclusions", broken)
    page = render(Material(store))
    assert "The verdict cannot be shown: ZeroDivisionError: a / 0." in page
    assert "saliency" in data_of(page)["sections"]


# --- size ------------------------------------------------------------------------------------------------------


def write_noise_run(folder, epochs, side):
    """Write a run whose pictures are noise, which takes about 3 bytes per pixel in the page."""
    store = Store(folder)
    store.begin(run_record(epochs=epochs - 1))
    for epoch in range(epochs):
        store.add_metrics(metrics_line(epoch) | {"best": epoch == 5})
        keep(store, "saliency", epoch, png(size=(side, side), noise=epoch))
    return store


def test_large_page_omits_epochs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 300_000)
    page = render(Material(write_noise_run(tmp_path, epochs=12, side=100)))
    assert len(page.encode()) <= 300_000
    assert data_of(page)["epochs"] == [0, 4, 5, 8, 11]
    assert "To limit its size, this page omits the figures of epochs 1, 2, 3, 6, 7, 9, 10;" in page
    assert len(data_of(page)["sections"]["curves"]["data"]["lines"]) == 12


def test_large_page_reduces_figures_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 300_000)
    page = render(Material(write_noise_run(tmp_path, epochs=2, side=250)))
    assert len(page.encode()) <= 300_000
    assert "To limit its size, this page reduces figures to 50% of their width" in page
    picture = data_of(page)["sections"]["saliency"]["data"]["figures"][0]["pictures"]["1"]
    assert (picture["width"], picture["height"]) == (250, 250)  # displayed at the original size


def test_page_that_stays_too_large_shows_no_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 90_000)
    page = render(Material(write_noise_run(tmp_path, epochs=2, side=600)))
    assert "To limit its size, this page shows no figures" in page
    assert "saliency" not in data_of(page)["sections"]


def test_the_limit_is_below_fifteen_megabytes():
    assert page_module.MOST_BYTES < 15_000_000


# --- arbitrary damage ------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(["saliency", "plots/saliency/epoch_000.png", "../x", "\0", "confusion_matrix"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def places(record, at=()):
    """Yield the path to every value in nested records and lists."""
    yield at
    parts = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in parts:
        yield from places(value, (*at, key))


def put(record, at, value):
    """Return a copy of `record` with the value at a path replaced."""
    if not at:
        return value
    copy = record.copy()
    copy[at[0]] = put(record[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "run.json",
        "metrics.jsonl",
        "plots/confusion_matrix/epoch_002.json",
        "plots/confusion_matrix/epoch_002_images.json",
        "plots/hardest/epoch_002.json",
        "plots/leaderboard/epoch_002.json",
    ],
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_page_survives_arbitrary_records(name, data, whole, tmp_path):
    folder = tmp_path / "save"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole.folder, folder)
    record = json.loads(
        (folder / name).read_text().splitlines()[0] if name.endswith("l") else (folder / name).read_text()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        record = put(record, data.draw(st.sampled_from(list(places(record)))), data.draw(VALUES))
    (folder / name).write_text(json.dumps(record))
    page = render(Material(Store(folder)))
    assert page.endswith("</html>")
    page.encode("utf-8", "replace")
