"""Terminal output of a run: whole paths at every width, in a terminal and on a pipe."""

import webbrowser
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pellucid.core import terminal
from pellucid.hooks import HOOKS
from pellucid.report import Material
from pellucid.report._verdict import verdict
from pellucid.run import console as printing
from pellucid.storage.store import Store
from pellucid.training.evaluate import Score
from pellucid.training.loop import Epoch
from pretended_run import write_run

LONG = Path("/data/project [draft] 2026/experiments of the network/a rather long save folder")


@pytest.fixture(params=[80, 120, None], ids=["80", "120", "piped"])
def lines(request, monkeypatch, capsys):
    """Return the printed lines; on a terminal of 80 or 120 columns, or on a pipe."""
    if request.param is None:
        screen = Console(soft_wrap=True, highlight=False, emoji=False)
    else:
        screen = Console(width=request.param, force_terminal=True, color_system=None, emoji=False)
    monkeypatch.setattr(terminal, "console", lambda: screen)
    return lambda: capsys.readouterr().out.splitlines()


def test_pictures_are_listed_one_per_line(lines):
    printing.print_pictures("saliency", 2, 0.44, [LONG / "a.png", LONG / "b.png"])
    printing.print_pictures("prototypes", None, 12.0, [LONG / "c.png"])
    assert lines() == [
        f"epoch 2  saliency           0.4 s  {LONG}/a.png",
        f"epoch 2  saliency                  {LONG}/b.png",
        f"end  prototypes            12.0 s  {LONG}/c.png",
    ]


def test_pictures_of_default_hooks_fit_80_columns_in_the_default_folder(lines):
    for name in (name for name in HOOKS if HOOKS[name].default):
        at_end = HOOKS[name].when == "end"
        path = Path(f"save/plots/{name}/epoch_000.png")
        printing.print_pictures(name, None if at_end else 0, 99.9, [path])
    assert max(map(len, lines())) <= 80


def test_report_address_is_absolute_and_percent_encoded(lines):
    printing.print_report_path(Store(LONG))
    (line,) = lines()
    assert (
        "file:///data/project%20%5Bdraft%5D%202026/experiments%20of%20the%20network/"
        "a%20rather%20long%20save%20folder/report.html" in line
    )


def test_epochs_fit_80_columns(lines):
    score, logits = Score(loss=0.0123, accuracy=0.9876), torch.zeros(1, 2)
    printing.print_epoch(Epoch(0, None, score, score, logits, logits, 0.01, True, 0.0, 0), 25)
    printing.print_epoch(Epoch(25, score, score, score, logits, logits, 0.01, True, 100.0, 0), 25)
    printed = lines()
    assert max(map(len, printed)) <= 80
    assert printed == [
        "Epoch 0/25: untrained, validation 98.76%, test 98.76%",
        "Epoch 25/25: loss 0.0123, train 98.76%, validation 98.76%, test 98.76%, 100.0 s",
    ]


def confusion(label="4", prediction="9", images=7, of=982):
    return {"label": label, "prediction": prediction, "images": images, "of": of}


@pytest.fixture
def store(tmp_path):
    """A run in a folder with spaces and brackets in its name, with a report."""
    store = write_run(tmp_path / ("a long name " * 6).strip() / "sa[/b]ve :cat:", test_accuracy=0.6)
    (store.folder / "report.html").touch()
    return store


def test_summary_begins_with_the_verdict_and_ends_with_the_report_and_tensorboard(lines, store):
    store.add_failure("tsne", 1, "ValueError: [bold]no points", "Traceback …")
    printing.print_summary(store)
    place = str(store.folder)
    sentences = [one.text for one in verdict(Material(store)) if one.section != "failures"]
    assert sentences[0].startswith("Test accuracy: 60.00% (6 of 15 misclassified; most common: a bird with")
    assert lines() == [
        *sentences,
        f"Hook tsne failed at epoch 1: ValueError: [bold]no points ({place}/errors/tsne_epoch_001.txt)",
        f"Figures     {place}/plots (13)",
        f"Metrics     {place}/metrics.jsonl",
        f"Open {store.folder.as_uri()}/report.html",
        f"TensorBoard: tensorboard --logdir='{place}/logs', then http://localhost:6006",
    ]


def test_the_accuracy_is_bold(store, monkeypatch):
    printed = []
    monkeypatch.setattr(printing, "print_line", lambda text, style="": printed.append((text, style)))
    printing.print_summary(store)
    assert [text for text, style in printed if style == "bold"] == [verdict(Material(store))[0].text]


def test_names_of_classes_are_printed_verbatim(tmp_path, lines):
    store = write_run(tmp_path, classes=("a [red]cat[/]", "dog", "x"), test_accuracy=0.6)
    printing.print_summary(store)
    assert "x predicted as dog" in lines()[0]


class Opened:
    """A browser in a window."""

    def __init__(self):
        self.addresses = []

    def open(self, address):
        self.addresses.append(address)
        return True


def test_report_opens_in_the_browser(store, monkeypatch, capsys):
    browser = Opened()
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    printing.open_report(store)
    assert browser.addresses == [f"{store.folder.as_uri()}/report.html"]
    assert capsys.readouterr().out == ""


def absent():
    raise webbrowser.Error("could not locate runnable browser")


@pytest.mark.parametrize("get", [absent, lambda: webbrowser.GenericBrowser("false")])
def test_without_a_graphical_browser_a_message_is_printed(get, store, monkeypatch, capsys):
    monkeypatch.delenv("BROWSER", raising=False)
    monkeypatch.setattr(webbrowser, "get", get)
    printing.open_report(store)
    assert "No browser could be started" in capsys.readouterr().out
