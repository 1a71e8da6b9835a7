"""Tests of README and guides: commands, flags, names and examples exist and work."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import pellucid
from pellucid.attribution import METHODS
from pellucid.core.registry import Registry
from pellucid.data import DATASETS, Request
from pellucid.engine.table import OPERATIONS
from pellucid.evaluation import METRICS
from pellucid.hooks import HOOKS
from pellucid.models import MODELS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of one language, dedented."""
    matches = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in matches]


def test_the_gate_runs_the_quick_start_commands() -> None:
    gate = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    commands = [command for block in blocks(README, "bash")[:2] for command in block.strip().split(" && ")]
    assert commands == ["pip install -e .", "python runner.py", "pip install -e '.[dev]'", "pytest"]
    for command in commands:
        assert any(line.startswith((command, f"{command} ")) for line in gate), f".ci/run does not run {command!r}"


def test_flags_in_the_readme_exist() -> None:
    help_page = subprocess.run(
        [sys.executable, "runner.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert help_page.returncode == 0, help_page.stderr
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"tensorboard .*", "", README))) - {"--help"}
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", help_page.stdout))


def test_names_in_the_readme_exist() -> None:
    for name in re.findall(r"\bpellucid\.([a-z_]+)", README):
        assert name in pellucid.__all__, f"README shows pellucid.{name}"
        assert getattr(pellucid, name) is not None


def test_every_dependency_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"] + extras} - {"pellucid"}
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| ([a-z][\w-]*) \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(declared)


@pytest.mark.parametrize(("registry", "name"), [(DATASETS, "stripes"), (MODELS, "linear")])
def test_examples_of_the_architecture_run(registry: Registry[Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (example,) = (block for block in blocks(text, "python") if f'register("{name}")' in block and "import" in block)
    exec(compile(example, "architecture.md", "exec"), {"__name__": "example"})
    if name == "stripes":
        raw = registry[name](Request(folder=Path("unused"), image_size=8))
        assert (len(raw.train), len(raw.test)) == (500, 100)
        assert raw.test.image_shape == (1, 8, 8)
    else:
        model = registry[name](channels=1, classes=3, image_size=(8, 8))
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`((?:src|tests)/[\w/]+\.py)`:\n\n```python\n(.*?)^```$", CONTRIBUTING, re.DOTALL | re.M))
"""Files that CONTRIBUTING.md shows, by path."""
TESTS = [path for path in FILES if path.startswith("tests/")]


def test_contributing_shows_a_test_of_every_file() -> None:
    names = {(Path(path).parts[1], Path(path).stem.removeprefix("test_")) for path in TESTS}
    assert names == {(Path(path).parts[2], Path(path).stem) for path in FILES if path.startswith("src/")}
    assert {package for package, _ in names} == {"hooks", "evaluation", "attribution", "data", "engine"}


@pytest.mark.parametrize("path", TESTS)
def test_files_of_contributing_pass_their_tests(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (HOOKS, METRICS, METHODS, DATASETS, OPERATIONS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    package, name = Path(path).parts[1], Path(path).stem.removeprefix("test_")
    (source,) = (other for other in FILES if other.startswith(f"src/pellucid/{package}/") and Path(other).stem == name)
    module = ModuleType(source.removeprefix("src/").removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FILES[source], source, "exec"), vars(module))
    names: dict[str, Any] = {"__name__": f"test_{name}"}
    exec(compile(FILES[path], path, "exec"), names)
    (test,) = (value for key, value in names.items() if key.startswith("test_"))
    test()
