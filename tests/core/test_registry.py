"""Registries list names without importing modules."""

import os
import subprocess
import sys

import pytest

from pellucid.core import registry as registry_module
from pellucid.core.errors import UnknownName
from pellucid.core.registry import Registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a plain module, a module with variants, a private module, and one that fails on import."""
    folder = tmp_path / "shapes_of_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pellucid.core.registry import Registry\nSHAPES = Registry('shape', __name__)\n"
    )
    (folder / "circle.py").write_text("from shapes_of_test import SHAPES\nSHAPES.register('circle')('round')\n")
    (folder / "polygon.py").write_text(
        "from shapes_of_test import SHAPES\nVARIANTS = ('polygon.three', 'polygon.four')\n"
        "for name, sides in zip(VARIANTS, (3, 4)):\n    SHAPES.register(name)(sides)\n"
    )
    (folder / "_shared.py").write_text("")
    (folder / "broken.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("shapes_of_test").SHAPES
    for name in [name for name in sys.modules if name.startswith("shapes_of_test")]:
        del sys.modules[name]


def test_listing_names_imports_no_module(package):
    assert package.names() == ["broken", "circle", "polygon.four", "polygon.three"]
    assert "shapes_of_test.broken" not in sys.modules


def test_a_file_is_parsed_once_until_it_changes(package, tmp_path, monkeypatch):
    parsed = []
    parse = registry_module.ast.parse
    monkeypatch.setattr(registry_module.ast, "parse", lambda text: parsed.append(text) or parse(text))
    for _ in range(3):
        assert package.names() == ["broken", "circle", "polygon.four", "polygon.three"]
    assert len(parsed) == 1  # a file without variants is not parsed at all
    path = tmp_path / "shapes_of_test/polygon.py"
    path.write_text("VARIANTS = ('polygon.five',)\n")
    os.utime(path, ns=(0, 0))
    assert package.names() == ["broken", "circle", "polygon.five"]


def test_looking_up_an_entry_imports_one_module(package):
    assert package["polygon.four"] == 4
    assert package["circle"] == "round"
    assert "shapes_of_test.broken" not in sys.modules


def test_an_unknown_name_suggests_close_matches(package):
    with pytest.raises(UnknownName, match=r"no shape 'cirle'; did you mean 'circle'\? Available: broken, circle"):
        package["cirle"]
    with pytest.raises(KeyError):
        package["polygon"]


def test_a_duplicate_name_is_refused():
    registry = Registry[int]("number", "pellucid.core")
    registry.register("one")(1)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        registry.register("one")(2)
    assert registry["one"] == 1


def test_importing_pellucid_and_its_registries_does_not_import_torch():
    code = (
        "import sys, pellucid; from pellucid.hooks import HOOKS; from pellucid.models import MODELS; "
        "from pellucid.data import DATASETS; "
        "assert 'saliency' in HOOKS and 'small_cnn' in MODELS.names() and 'mnist' in DATASETS; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_name_of_an_entry_is_found(package):
    assert package.name_of(package["polygon.three"]) == "polygon.three"
