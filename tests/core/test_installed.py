"""Entries of installed packages are found by name, used like ours, and skipped if they are broken."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from installing import install
from pellucid.core import installed
from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.registry import Registry

GROUP = "pellucid.numbers_of_test"
ROOT = Path(__file__).parents[2]
HOOK = "from pellucid.hooks import Hook\nclass two(Hook):\n"


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Any]]:
    """A registry with one entry of its own, `one`, whose group is read from packages in `tmp_path`."""
    package = tmp_path / "numbers_of_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"from pellucid.core.registry import Registry\nNUMBERS = Registry('number', __name__, {GROUP!r})\n"
    )
    (package / "one.py").write_text(
        "from numbers_of_test import NUMBERS\n@NUMBERS.register('one')\ndef one(): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installed, "_reported", set())
    before = set(sys.modules)
    yield __import__("numbers_of_test").NUMBERS
    for name in set(sys.modules) - before:
        if name.startswith(("numbers_of_test", "more_numbers")):
            del sys.modules[name]
    installed._all_installed.cache_clear()


Install = Callable[..., None]


@pytest.fixture
def installing(tmp_path: Path) -> Install:
    def write(name: str, source: str, **points: str) -> None:
        module = name.replace("-", "_")
        install(tmp_path, name, {module: source}, {GROUP: {key: value or module for key, value in points.items()}})
        installed._all_installed.cache_clear()

    return write


def test_an_entry_is_listed_without_being_imported(numbers: Registry[Any], installing: Install) -> None:
    installing("more-numbers", "two = lambda: 2\n", two="more_numbers:two")
    assert numbers.names() == ["one", "two"]
    assert "two" in numbers
    assert numbers.check("two") == "two"
    assert "more_numbers" not in sys.modules
    assert numbers["two"]() == 2
    assert [name for name, _ in numbers.items()] == ["one", "two"]
    assert numbers.name_of(numbers["two"]) == "two"
    with pytest.raises(UnknownName, match=r"did you mean 'two'\? Available: one, two"):
        numbers["tow"]


def test_an_entry_may_register_itself(numbers: Registry[Any], installing: Install) -> None:
    source = "from numbers_of_test import NUMBERS\n@NUMBERS.register('two.half')\ndef half(): return 1\n"
    installing("more-numbers", source, **{"two.half": "more_numbers"})
    assert numbers["two.half"]() == 1


def test_a_broken_entry_is_skipped_once_and_explained_when_asked_for(
    numbers: Registry[Any], installing: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    installing("more-numbers", "raise RuntimeError('out of numbers')\n", two="more_numbers:two")
    message = (
        "the number 'two' of the installed package more-numbers 1.2 cannot be loaded (more_numbers:two: RuntimeError: "
        "out of numbers); repair or uninstall the package."
    )
    assert numbers.names() == ["one", "two"]
    for _ in range(3):
        assert [name for name, _ in numbers.items()] == ["one"]
    assert capsys.readouterr().err == f"pellucid: {message}\n"
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        numbers["two"]
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("source", "point", "reason"),
    [
        ("two = 2\n", "more_numbers:two", "a int that registers no number of this name"),
        ("", "more_numbers", "a module that registers no number of this name"),
        ("", "more_numbers:two", "AttributeError"),
        ("", "no_such_module_of_test:two", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)\n", "more_numbers:two", "SystemExit: 3"),
        (
            "import numbers_of_test as n\n@n.NUMBERS.register('one')\ndef f(): pass\n",
            "more_numbers",
            "registered twice",
        ),
    ],
)
def test_every_kind_of_failure_is_explained(
    numbers: Registry[Any], installing: Install, source: str, point: str, reason: str
) -> None:
    installing("more-numbers", source, two=point)
    with pytest.raises(ConfigError, match=rf"'two' of the installed package more-numbers 1.2 .*{reason}"):
        numbers["two"]
    assert numbers["one"]() == 1


def test_our_names_win_and_clashes_are_reported(
    numbers: Registry[Any], installing: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    installing("more-numbers", "one = two = lambda: 'theirs'\n", one="more_numbers:one", two="more_numbers:two")
    installing("more-numbers-too", "two = lambda: 'late'\n", two="more_numbers_too:two")
    installing("more-numbers-z", "", **{"../three": "more_numbers_z:x"})
    assert numbers["one"]() == 1
    assert numbers["two"]() == "theirs"
    assert numbers.names() == ["one", "two"]
    packages = ("number 'one' of", "more-numbers 1.2", "pellucid has a number of that name"), (
        "number 'two' of", "more-numbers-too 1.2", "more-numbers 1.2 has one of that name",
    ), ("number '../three' of", "more-numbers-z 1.2", "its name is invalid")  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [
        f"pellucid: the {entry} the installed package {package} is skipped: {reason}."
        for entry, package, reason in packages
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def two(): pass\n", "not a subclass of pellucid.hooks.Hook"),
        (HOOK + "    pass\n", "cannot be created without arguments: TypeError"),
        (
            HOOK + "    def __init__(self, size): pass\n    def run(self, scene): return ()\n",
            "cannot be created without arguments: TypeError",
        ),
        (HOOK + "    def run(self, scene): return ()\n", None),
    ],
)
def test_a_class_of_the_wrong_kind_is_broken_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    from pellucid.hooks import HOOKS

    install(tmp_path, "hooks-of-test", {"hooks_of_test": source}, {"pellucid.hooks": {"two": "hooks_of_test:two"}})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(HOOKS, "_failed", {})
    monkeypatch.setattr(installed, "_reported", set())
    sys.modules.pop("hooks_of_test", None)
    names = [name for name, _ in HOOKS.items()]
    HOOKS._entries.pop("two", None)
    assert "saliency" in names
    assert ("two" in names) is (reason is None)
    errors = capsys.readouterr().err
    assert (reason in errors) if reason else (errors == "")


def test_a_method_without_a_description_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.attribution import METHODS, methods

    source = "from pellucid.attribution import Attribution\nclass two(Attribution): pass\n"
    install(
        tmp_path, "methods-of-test", {"methods_of_test": source}, {"pellucid.methods": {"two": "methods_of_test:two"}}
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METHODS, "_failed", {})
    assert "two" in METHODS
    assert "two" not in [method.name for method in methods()]
    with pytest.raises(ConfigError, match="without the attribute"):
        METHODS["two"]


def test_the_registries_have_their_groups() -> None:
    from pellucid.attribution import METHODS
    from pellucid.data import DATASETS
    from pellucid.evaluation import METRICS
    from pellucid.hooks import HOOKS
    from pellucid.models import MODELS

    groups = [each.group for each in (METHODS, HOOKS, METRICS, DATASETS, MODELS)]
    assert groups == [f"pellucid.{name}" for name in ("methods", "hooks", "metrics", "datasets", "models")]


def example() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The modules and entry points of the package in docs/extending.md."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"`([\w/.]+)`:\n\n```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    modules = {Path(name).stem: source for name, source in blocks if name.endswith(".py")}
    (project,) = (source for name, source in blocks if name == "pyproject.toml")
    import tomllib

    return modules, tomllib.loads(project)["project"]["entry-points"]


@pytest.mark.slow
def test_the_documented_package_works_on_the_command_line(tmp_path: Path) -> None:
    modules, points = example()
    assert set(points) == {
        f"pellucid.{name}" for name in ("methods", "hooks", "metrics", "datasets", "models", "rules")
    }
    install(tmp_path, "pellucid-stripes", modules, points)
    install(tmp_path, "broken-package", {"broken_package": "import nothing_of_this_name\n"}, {
        "pellucid.methods": {"broken_method": "broken_package"}, "pellucid.hooks": {"broken_hook": "broken_package"},
    })  # fmt: skip

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
        return subprocess.run(
            [sys.executable, "-m", "pellucid", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        )  # fmt: skip

    listed = run("methods")
    assert listed.returncode == 0
    assert "stripes_gradient" in listed.stdout
    assert "broken_method" not in listed.stdout
    reason = "cannot be loaded (broken_package: ModuleNotFoundError: No module named 'nothing_of_this_name')"
    (line,) = listed.stderr.splitlines()
    assert line.startswith("pellucid: the method 'broken_method' of the installed package broken-package 1.2 " + reason)
    flags = ("--dataset", "stripes", "--model", "stripes_linear", "--epochs", "1", "--methods", "stripes_gradient")
    done = run("run", *flags, "--hooks", "stripes_margin", "--save", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # the broken hook is not imported
    assert (tmp_path / "out" / "plots" / "stripes_margin" / "epoch_001.json").is_file()
    asked = run("run", *flags, "--hooks", "broken_hook", "--save", "other")
    assert asked.returncode == 2
    assert f"the hook 'broken_hook' of the installed package broken-package 1.2 {reason}" in asked.stderr
    assert not (tmp_path / "other").exists()
    evaluated = run(
        "evaluate", "out", "--metrics", "stripes_share", "--methods", "gradient,stripes_gradient", "--images", "20"
    )
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    (table,) = (tmp_path / "out" / "evaluation").glob("*.json")
    assert "stripes_share" in table.read_text()
    code = (
        "import torch; from torch import nn; from pellucid import create_analyzer, load_run; run = load_run('out'); "
        "torch.manual_seed(0); net = nn.Sequential(run.model, nn.Linear(2, 2)).double(); "
        "x = torch.rand(2, 1, 8, 8, dtype=torch.float64); "
        "halved = create_analyzer('lrp.epsilon', net, rules={'dense': 'stripes_halved'}).analyze(x, 0); "
        "whole = create_analyzer('lrp.epsilon', net, epsilon=1e-6).analyze(x, 0); "
        "print(torch.allclose(4 * halved, whole))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    checked = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert checked.stdout == "True\n", checked.stdout + checked.stderr
