"""Runs of the whole program, small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid.cli import main

SHORT = {
    "pellucid.densities.vae.STEPS": 30,
    "pellucid.densities.gaussian_mixture.COMPONENTS": 3,
    "pellucid.hooks.prototypes.IMAGES_FOR_ALL_STEPS": 10**6,
}
"""What takes long, and how little of it is enough."""


@pytest.fixture(scope="module", autouse=True)
def short_search():
    """Densities and prototypes are made in few steps: what they come to is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for place, number in SHORT.items():
            patch.setattr(place, number)
        yield


@pytest.fixture
def run_program(tmp_path, monkeypatch) -> Callable[..., int]:
    """Run `pellucid run ARGUMENTS` in an empty folder with one thread; no mirror on the internet is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PELLUCID_MIRROR", raising=False)
    monkeypatch.setattr("pellucid.data.mnist.PUBLIC_MIRRORS", ("http://127.0.0.1:9/",))

    def run(*arguments: object) -> int:
        return main(["run", "--threads", "1", *map(str, arguments)])

    return run


def read_json(path: Path) -> dict:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict]:
    """The records of a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
