"""Tests of README and guides: commands, flags, names and examples exist and work."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pellucid
from pellucid.core.registry import Registry
from pellucid.data import DATASETS
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


@pytest.mark.parametrize(
    ("text", "registry", "name"),
    [
        ("docs/architecture.md", DATASETS, "stripes"),
        ("docs/architecture.md", MODELS, "linear"),
        ("CONTRIBUTING.md", HOOKS, "confidence"),
    ],
)
def test_examples_run(text: str, registry: Registry[object], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    examples = blocks((ROOT / text).read_text(encoding="utf-8"), "python")
    (example,) = (block for block in examples if f'register("{name}")' in block and "import" in block)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, text, "exec"), names)
    check_example(name, registry[name])


def check_example(name: str, entry: object) -> None:
    """Use the registered entry as the pipeline would."""
    import torch

    from pellucid.core.contracts import ImageSet
    from pellucid.data import Request
    from pellucid.hooks import Scene

    assert callable(entry)
    if name == "stripes":
        raw = entry(Request(folder=Path("unused"), image_size=8))
        assert (len(raw.train), len(raw.test)) == (500, 100)
        assert raw.test.image_shape == (1, 8, 8)
    elif name == "linear":
        assert entry(channels=1, classes=3, image_size=(8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    else:
        model = MODELS["mlp"](channels=1, classes=2, image_size=(8, 8))
        test = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        logits = torch.tensor([[0.0, 0.0]] * 4)
        scene = Scene(0, model, torch.device("cpu"), test, logits, ("a", "b"), "Test", seed=0)
        (artifact,) = entry().run(scene)
        assert artifact.numbers == {"confidence": 0.5}
