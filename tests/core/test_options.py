"""Options against their annotations: types, ranges, finiteness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.options import Count, NotNegative, Number, Options, Share, check_options


@dataclass(frozen=True)
class Some(Options):
    family: ClassVar[str] = "not an option"

    number: Number = 0.5
    count: Count = 1
    size: NotNegative = 0
    share: Share = 0.5
    is_on: bool = False
    mode: Literal["a", "b"] = "a"
    window: Count | tuple[Count, ...] | None = None
    pair: tuple[int, str] = (1, "x")
    baseline: float | int | Tensor = 0.0
    function: Callable[[Tensor], Tensor] | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    learned: Any = field(default=3, init=False)


WRONG = {
    "number": ("1", None, True, float("nan"), float("-inf"), torch.ones(2), [1]),
    "count": (0, -1, 1.0, True, "3", None),
    "size": (-0.1, float("inf"), "x"),
    "share": (0, 1, 1.5, -1),
    "is_on": (1, "yes", None),
    "mode": ("c", 0, None),
    "window": (0, (1, 0), "11", 1.5, (1, 2.5)),
    "pair": ((1,), (1, 2), ("x", 1), 1),
    "baseline": (None, float("nan"), torch.tensor([0.0, torch.nan]), torch.tensor([torch.inf]), "0"),
    "function": (3, "f"),
    "rules": (3, [1]),
    "names": (3, (1, 2)),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_an_annotation_excludes_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"the option {name} of Some is .*; expected [a-zT]"):
        Some(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"number": np.float32(0.1), "count": np.int64(3), "size": 0.0},
        {"window": 3, "is_on": np.bool_(True)},
        {"window": [2, 3], "names": ["a"]},
        {"baseline": torch.ones(2, 3), "function": torch.relu},
        {"baseline": torch.tensor([1, 2]), "number": -3},
    ],
)
def test_what_an_annotation_allows_is_taken(options: dict[str, Any]) -> None:
    assert Some(**options).family == "not an option"


def test_the_range_and_the_place_of_what_is_not_finite_are_told() -> None:
    with pytest.raises(ConfigError, match=r"count of Some is -1; expected a whole number \(at least 1\)\."):
        Some(count=-1)
    with pytest.raises(
        ConfigError, match=r"shape \(2, 2\) and dtype torch.float32 with inf at index \(1, 0\); expected a f"
    ):
        Some(baseline=torch.tensor([[1.0, 2.0], [torch.inf, torch.nan]]))


def test_annotations_that_cannot_be_read_check_nothing() -> None:
    @dataclass
    class Foreign:
        size: "NotThere" = -1  # type: ignore[name-defined]  # noqa: F821

    check_options(Foreign())


def test_alternatives_with_the_same_description_are_named_once() -> None:
    @dataclass(frozen=True)
    class Patches(Options):
        size: int | tuple[int, int] | tuple[int, int, int] = 1

    with pytest.raises(
        ConfigError, match=r"expected a whole number or a tuple whose entries are each a whole number\.$"
    ):
        Patches(size="a")


def test_arrays_and_lists_of_tensors_are_described_in_one_line() -> None:
    @dataclass(frozen=True)
    class Compared(Options):
        baseline: Number | Tensor = 0

    with pytest.raises(ConfigError, match=r"is an array of shape \(9, 9\) and dtype float64; expected"):
        Compared(baseline=np.ones((9, 9)))
    with pytest.raises(ConfigError) as error:
        Compared(baseline=[torch.ones(3, 3)])
    assert "\n" not in str(error.value)
