"""The examples of docs/calibration.md."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")


def test_examples_run(capsys) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, validation_logits = torch.randn(2, 200, 4, generator=draw)
    names = {
        "logits": 2 * logits,
        "labels": logits.softmax(1).multinomial(1, generator=draw)[:, 0],
        "validation_logits": 2 * validation_logits,
        "validation_labels": validation_logits.softmax(1).multinomial(1, generator=draw)[:, 0],
    }
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "calibration.md", "exec"), names)
    assert names["scaled"].ece < names["result"].ece
    assert len(capsys.readouterr().out.splitlines()) == 3
