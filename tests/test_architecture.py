"""The claims of docs/architecture.md about the structure of the code."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pellucid.core.registry import Registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pellucid"
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def registries() -> list[tuple[str, Registry[object]]]:
    """Return every registry defined in a package, with the package's name."""
    return [
        (package, value)
        for package in PACKAGES
        for value in vars(import_module(f"pellucid.{package}")).values()
        if isinstance(value, Registry) and value.package == f"pellucid.{package}"
    ]


ENTRIES = [(package, registry, name) for package, registry in registries() for name in registry.names()]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_package_has_a_layer() -> None:
    parts = {*PACKAGES, *(path.stem for path in SOURCE.glob("[!_]*.py"))}
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layered = set(re.findall(r"pellucid\.(\w+)", contract.partition('type = "layers"')[2].partition("]")[0]))
    assert parts <= layered


def test_importing_pellucid_is_light() -> None:
    heavy = "{'torch', 'torchvision', 'matplotlib', 'sklearn', 'tensorboard', 'numpy'}"
    loaded = run_python(f"import sys, pellucid; print(sorted({heavy} & set(sys.modules)))")
    assert loaded.stdout.strip() == "[]", loaded.stdout + loaded.stderr


def test_every_private_module_has_a_docstring() -> None:
    """Of the public ones, ruff requires it."""
    private = [path for path in MODULES if path.stem.startswith("_") and path.stem != "__init__"]
    assert private
    assert [path for path in private if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_no_module_is_a_catch_all() -> None:
    catch_alls = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in MODULES if path.stem.strip("_") in catch_alls] == []


def test_entries_modules_and_tests_share_one_name() -> None:
    for package, registry, name in ENTRIES:
        registry[name]  # raises KeyError if the module registers another name
        stem = name.partition(".")[0]
        assert (SOURCE / package / f"{stem}.py").is_file()
        assert (ROOT / "tests" / package / f"test_{stem}.py").is_file()


@pytest.mark.parametrize(
    "package", [path.parent for path in SOURCE.rglob("__init__.py")], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_package_docstrings_name_their_files(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    if "\n- `" not in docstring:
        pytest.skip("the docstring has no list of files")
    names = set(re.findall(r"`(\w+)`", docstring))
    # the entries of a registry are described together, as "every other file"
    entries = {name.partition(".")[0] for _, registry, name in ENTRIES if registry.package.endswith(f".{package.name}")}
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert files - entries <= names
