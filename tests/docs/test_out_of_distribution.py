"""The page docs/out_of_distribution.md: its examples run, and its tables are complete."""

import re
from pathlib import Path

import torch

from pellucid.diagnostics import SHIFTS
from pellucid.diagnostics._shifts import NOISE_SHARE
from pellucid.hooks.out_of_distribution import DETAILS, OutOfDistributionHook

PAGE = (Path(__file__).parents[2] / "docs" / "out_of_distribution.md").read_text(encoding="utf-8")


def test_examples_run(capsys) -> None:
    draw = torch.Generator().manual_seed(0)
    embedding = torch.randn(3, 60, 4, generator=draw)
    names = {
        "train_embedding": embedding[0],
        "train_labels": torch.arange(60) % 3,
        "test_embedding": embedding[1],
        "other_embedding": embedding[2] + 3,
        "test_logits": embedding[1, :, :3],
        "other_logits": embedding[2, :, :3] / 10,
        "test_images": torch.rand(5, 1, 8, 8),
    }
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "out_of_distribution.md", "exec"), names)
    assert capsys.readouterr().out.split()[0] == names["result"].best
    assert names["images"].shape == (5, 1, 8, 8)


def test_tables_have_all_scores_and_sets() -> None:
    cells = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {*DETAILS, *SHIFTS, "digits"}


def test_numbers_are_those_of_the_code() -> None:
    hook = OutOfDistributionHook()
    assert f"{hook.train_images:,} by default" in PAGE
    assert f"Up to {hook.set_images:,} test images" in PAGE
    assert f"its {hook.neighbors}th nearest neighbor" in PAGE
    assert f"{NOISE_SHARE:.0%} of the pixel range" in PAGE
