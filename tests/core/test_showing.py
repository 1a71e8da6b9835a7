"""Reprs of results stay short, for tensors of any size."""

from dataclasses import dataclass
from typing import Any

import torch

import pellucid
from pellucid.core.showing import Shown


@dataclass(frozen=True, eq=False, repr=False)
class Result(Shown):
    value: Any


def test_large_tensors_are_printed_by_dtype_and_shape_and_small_ones_by_value() -> None:
    assert "value = float64 (3, 28, 28)" in repr(Result(torch.zeros(3, 28, 28, dtype=torch.float64)))
    assert "value = [1, 2]" in repr(Result(torch.tensor([1, 2])))
    assert "value = [0.3333, None, 'a']" in repr(Result([1 / 3, None, "a"]))
    nested = Result({"maps": (torch.zeros(5, 5, dtype=torch.int8), True)})
    assert "value = {'maps': (int8 (5, 5), True)}" in repr(nested)


def test_results_of_the_library_have_short_reprs() -> None:
    model, images = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)), torch.rand(8, 1, 28, 28)
    for result in (
        pellucid.create_analyzer("gradient", model).explain(images),
        pellucid.jacobian_report(model, images),
        pellucid.jacobian_spectrum(model, images),
    ):
        shown = repr(result)
        assert shown.startswith(f"{type(result).__name__}(\n")
        assert len(shown) < 1500
        assert "(8, " in shown
