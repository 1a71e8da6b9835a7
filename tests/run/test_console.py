"""Terminal output of a run: whole paths at every width, in a terminal and on a pipe."""

from pathlib import Path

import pytest
from rich.console import Console

from pellucid.hooks import HOOKS
from pellucid.run import console as printing
from pellucid.storage.store import Store

LONG = Path("/data/project [draft] 2026/experiments of the network/a rather long save folder")


@pytest.fixture(params=[80, 120, None], ids=["80", "120", "piped"])
def lines(request, monkeypatch, capsys):
    """Return the printed lines; on a terminal of 80 or 120 columns, or on a pipe."""
    if request.param is None:
        screen = Console(soft_wrap=True, highlight=False, emoji=False)
    else:
        screen = Console(width=request.param, force_terminal=True, color_system=None, emoji=False)
    monkeypatch.setattr(printing, "console", lambda: screen)
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
