"""Fixtures for small runs of the whole program."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import SHORT

from pellucid.cli import main

collect_ignore = ["library_calls.py"]
"""A program that a test runs; it creates tensors of all kinds on import, and some arguments of wrong types."""


@pytest.fixture(scope="module", autouse=True)
def short_search():
    """Fit densities and prototypes in few steps, without child processes; both are tested elsewhere.

    Tests replace functions that hooks call, and pytest may have threads of its own, beside which nothing is forked.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.run.pipeline.worker_count", lambda *_: 0)
        for place, number in SHORT.items():
            patch.setattr(place, number)
        yield


@pytest.fixture
def run_program(tmp_path, monkeypatch) -> Callable[..., int]:
    """Run `pellucid run ARGUMENTS` in an empty folder, with one thread and without internet mirrors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PELLUCID_MIRROR", raising=False)
    monkeypatch.setattr("pellucid.data.mnist.PUBLIC_MIRRORS", ("http://127.0.0.1:9/",))

    def run(*arguments: object) -> int:
        return main(["run", "--threads", "1", *map(str, arguments)])

    return run


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict]:
    """Read a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
