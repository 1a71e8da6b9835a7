"""The example in docs/label_errors.md runs, and the page agrees with the code."""

import re
from pathlib import Path

from pellucid.diagnostics import LabelErrors
from pellucid.diagnostics._confident_learning import PSEUDO_EXAMPLES
from pellucid.diagnostics._label_errors import NEIGHBORS
from pellucid.diagnostics._nearest import FEATURES, REFERENCES
from pellucid.hooks.label_errors import LabelErrorsHook

PAGE = (Path(__file__).parents[2] / "docs" / "label_errors.md").read_text(encoding="utf-8")


def test_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "label_errors.md", "exec"), names)
    errors = names["errors"]
    assert isinstance(errors, LabelErrors)
    assert 0 < errors.suspects < 100
    shown = set(re.findall(r"^errors\.(\w+)", example, re.MULTILINE))
    assert shown == {"score", "ranking", "suggested", "suspects", "pairs", "joint", "evidence"}


def test_constants_are_those_of_the_code() -> None:
    assert (NEIGHBORS, REFERENCES, FEATURES, PSEUDO_EXAMPLES) == (10, 2000, 64, 50)
    text = " ".join(PAGE.split())
    assert "ten nearest neighbors" in text
    assert "2,000 random examples, in up to 64 dimensions" in text
    assert "Fifty pseudo-examples" in text
    assert f"at most {LabelErrorsHook().images:,} of them" in text
