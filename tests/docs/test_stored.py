"""The first example in docs/stored.md runs, and the page agrees with the code."""

import re
from pathlib import Path

from pellucid import StoredExplanations
from pellucid.report.stored._maps import FEW, FLOOR
from pellucid.storage.explanations.metadata import VARIABLES

PAGE = (Path(__file__).parents[2] / "docs" / "stored.md").read_text(encoding="utf-8")


def test_example_runs() -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(compile(example, "stored.md", "exec"), names)
    owls, batch = names["owls"], names["batch"]
    assert isinstance(owls, StoredExplanations)
    assert isinstance(batch, dict)
    assert set(owls.labels) == {2}
    assert not (owls.predictions == 2).any()
    assert batch["relevance"].shape == (32, 1, 8, 8)


def test_variables_and_constants_are_those_of_the_code() -> None:
    layout = PAGE.partition("## Layout")[2]
    rows = [line for line in layout.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(VARIABLES)
    assert f"max(|promised sum|, {FLOOR:g} logits)" in PAGE
    assert FEW == 6
    assert "the six images with the largest" in PAGE
