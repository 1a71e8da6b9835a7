"""Tests of README and guides: commands, flags, names and examples exist and work."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import pellucid
from pellucid.attribution import METHODS
from pellucid.data import DATASETS
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
    installs = [block for block in blocks(README, "bash") if block.startswith("pip install")]
    commands = [command for block in installs for command in block.strip().split(" && ")]
    assert commands == ["pip install -e .", "python runner.py", "pip install -e '.[dev]'", "pytest"]
    for command in commands:
        assert any(line.startswith((command, f"{command} ")) for line in gate), f".ci/run does not run {command!r}"


def test_flags_in_the_readme_exist() -> None:
    known = {"--help"}
    for command in ("run", "inspect", "explain", "export"):
        page = subprocess.run(
            [sys.executable, "-m", "pellucid", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert page.returncode == 0, page.stderr
        known |= set(re.findall(r"--[a-z][a-z-]+", page.stdout))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"tensorboard .*|torchrun .*? -m ", "", README))) <= known


def test_names_in_the_readme_exist() -> None:
    for name in re.findall(r"\bpellucid\.([a-z_]+)", README):
        if name not in pellucid.__all__:
            assert find_spec(f"pellucid.{name}"), f"README shows pellucid.{name}"
            continue
        assert getattr(pellucid, name) is not None


def test_every_dependency_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"] + extras} - {"pellucid"}
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| ([a-z][\w-]*) \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(declared)


@pytest.fixture
def forget() -> Iterator[list[str]]:
    """Yield a list of names to remove from all registries after the test.

    The registries cannot simply be restored: modules that the test was the first to import would not register again.
    """
    names: list[str] = []
    yield names
    for registry in (DATASETS, HOOKS, METHODS, METRICS, MODELS):
        for name in names:
            registry._entries.pop(name, None)
    for function, entry in list(OPERATIONS._entries.items()):
        if entry.handler.__module__.rpartition(".")[2] in names:
            del OPERATIONS._entries[function]


def test_example_of_the_architecture_runs(forget: list[str]) -> None:
    forget.append("linear")
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (example,) = (block for block in blocks(text, "python") if 'register("linear")' in block)
    exec(compile(example, "architecture.md", "exec"), {"__name__": "example"})
    model = MODELS["linear"](channels=1, classes=3, image_size=(8, 8))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_base_classes_are_where_the_architecture_says() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(pellucid\.\w+)` \(([^)]*)\)", text.partition("Base classes and registries")[2])
    assert {module for module, _ in listed} >= {"pellucid.hooks", "pellucid.engine", "pellucid.report"}
    for module, names in listed:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(import_module(module), name), f"{module}.{name}"


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`((?:src|tests)/[\w/]+\.py)`:\n\n```python\n(.*?)^```$", CONTRIBUTING, re.DOTALL | re.M))
"""Files that CONTRIBUTING.md shows, by path."""
TESTS = [path for path in FILES if path.startswith("tests/")]


def test_contributing_shows_a_test_of_every_file() -> None:
    names = {(Path(path).parts[1], Path(path).stem.removeprefix("test_")) for path in TESTS}
    assert names == {(Path(path).parts[2], Path(path).stem) for path in FILES if path.startswith("src/")}
    assert {package for package, _ in names} == {"hooks", "evaluation", "attribution", "data", "engine"}


@pytest.mark.parametrize("path", TESTS)
def test_files_of_contributing_pass_their_tests(path: str, monkeypatch: pytest.MonkeyPatch, forget: list[str]) -> None:
    package, name = Path(path).parts[1], Path(path).stem.removeprefix("test_")
    (source,) = (other for other in FILES if other.startswith(f"src/pellucid/{package}/") and Path(other).stem == name)
    forget.append(name)
    module = ModuleType(source.removeprefix("src/").removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FILES[source], source, "exec"), vars(module))
    names: dict[str, Any] = {"__name__": f"test_{name}"}
    exec(compile(FILES[path], path, "exec"), names)
    (test,) = (value for key, value in names.items() if key.startswith("test_"))
    test()
