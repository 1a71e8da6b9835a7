"""Exports that are imported on first use."""

import random
import sys

import pytest

from pellucid.core.lazy import lazy_exports


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one exported name, in a module that records its import."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "_part.py").write_text("import random\nrandom.random()\nanswer = object()\n")
    (folder / "__init__.py").write_text(
        "from pellucid.core.lazy import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, {'answer': '._part', 'path': 'os.path'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("slow_package")
    for name in [name for name in sys.modules if name.partition(".")[0] == "slow_package"]:
        del sys.modules[name]


def test_module_is_imported_on_first_use(package) -> None:
    assert "slow_package._part" not in sys.modules
    assert package.answer is sys.modules["slow_package._part"].answer
    from slow_package import answer

    assert answer is package.answer


def test_imports_leave_the_random_state_of_python_unchanged(package) -> None:
    before = random.getstate()
    assert package.answer is not None
    assert random.getstate() == before


def test_names_are_listed_and_others_refused(package) -> None:
    assert dir(package) == ["answer", "path"]
    with pytest.raises(AttributeError, match="module 'slow_package' has no attribute 'question'"):
        _ = package.question
    with pytest.raises(AttributeError, match="path"):
        _ = package.path  # os.path has no `path`
    assert lazy_exports("p", {})[1]() == []
