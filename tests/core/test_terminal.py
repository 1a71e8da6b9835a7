"""Progress is a bar on a terminal, and plain lines elsewhere."""

import io
import itertools
import threading

import pytest
from rich.console import Console

from pellucid.core import terminal


@pytest.fixture
def screen(monkeypatch, request):
    screen = Console(file=io.StringIO(), force_terminal=request.param, width=100)
    monkeypatch.setattr(terminal, "console", lambda: screen)
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_PLAIN_LINES", 0.0)
    return screen


@pytest.mark.parametrize("screen", [False], indirect=True)
def test_progress_is_printed_as_plain_lines_without_a_terminal(screen):
    with terminal.track("counting", total=4) as tracker:
        tracker.update(1, "loss 0.5")
        tracker.update(4, "loss [bold]0.1")
    assert screen.file.getvalue() == "  counting:  25%  loss 0.5\n  counting: 100%  loss [bold]0.1\n"


def test_characters_that_the_output_cannot_show_are_escaped(monkeypatch):
    content = io.BytesIO()
    screen = Console(file=io.TextIOWrapper(content, encoding="ascii", write_through=True), soft_wrap=True)
    monkeypatch.setattr(terminal, "console", lambda: screen)
    terminal.print_line("32×32 pixels")
    assert content.getvalue() == b"32\\xd732 pixels\n"


@pytest.mark.parametrize("screen", [True], indirect=True)
def test_progress_is_a_transient_bar_on_a_terminal(screen):
    with terminal.track("counting", total=4) as tracker:
        tracker.update(2, "loss 0.5")
    text = screen.file.getvalue()
    assert "counting" in text
    assert "2/4" in text
    assert "loss 0.5" in text


@pytest.mark.parametrize("screen", [True], indirect=True)
def test_progress_starts_no_thread(screen):
    """A process forked while another thread holds a lock waits for it forever."""
    before = threading.active_count()
    with terminal.track("counting", total=4) as tracker:
        tracker.update(2)
        assert threading.active_count() == before


@pytest.mark.parametrize("screen", [True], indirect=True)
def test_the_bar_is_drawn_ten_times_a_second(screen, monkeypatch):
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr(terminal, "monotonic", lambda: next(clock))
    with terminal.track("counting", total=1000) as tracker:
        for number in range(1000):
            tracker.update(number)
    drawn = screen.file.getvalue().count("counting")
    assert 50 <= drawn <= 210  # 1,000 updates within 10 to 20 s, and the first and last picture
