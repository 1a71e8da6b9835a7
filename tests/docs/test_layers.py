"""The examples of docs/layers.md and docs/concepts.md run, in order."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

DOCS = Path(__file__).parents[2] / "docs"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block1, self.block2 = nn.Conv2d(1, 6, 5, stride=4), Block(), Block()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(216, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(self.stem(x))))


def run(guide: str, names: dict[str, object]) -> None:
    for code in re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)


@pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")
@pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning")
def test_examples_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"model": Network().eval(), "images": torch.rand(2, 1, 28, 28), "labels": torch.tensor([3, 8])}
    run("layers.md", names)
    assert set(names["maps"]) == {"stem", "block1", "block2"}
    assert (tmp_path / "layers.png").exists()
    assert (tmp_path / "flow.png").exists()
    assert names["prototype"].images.shape == (1, 1, 28, 28)


@pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")
def test_examples_of_concepts_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.rand(12, 1, 28, 28)
    names = {"model": Network().eval(), "images": images[:2], "test_data": (images, torch.arange(12) % 10)}
    run("concepts.md", names)
    assert names["through"].maps.shape == (2, 4, 1, 28, 28)
    assert (tmp_path / "why.png").exists()
