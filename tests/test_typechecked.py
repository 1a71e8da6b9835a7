"""The type checks that all other tests run under."""

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from pellucid.core.text import printable
from pellucid.densities.gaussian_mixture import GaussianMixture
from typechecked import check, evaluated


def test_functions_of_pellucid_refuse_other_types() -> None:
    with pytest.raises(TypeCheckError):
        printable(3)  # type: ignore[arg-type]


def test_methods_of_pellucid_refuse_other_shapes() -> None:
    with pytest.raises(TypeCheckError):
        GaussianMixture.log_density(object.__new__(GaussianMixture), torch.zeros(2, 3))


def test_sizes_of_equal_names_are_compared_and_results_are_checked() -> None:
    @check
    def product(a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
        return a @ b if a.sum() else b

    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    with pytest.raises(TypeCheckError):
        product(torch.ones(2, 3), torch.ones(4, 3))
    with pytest.raises(TypeCheckError):
        product(torch.zeros(2, 3), torch.ones(3, 4))


def test_results_and_fields_without_axes_are_checked() -> None:
    @check
    def half(count: int) -> "int":
        return count / 2  # type: ignore[return-value]

    @check
    @dataclass
    class Part:
        share: float
        names: "tuple[str, ...]" = ()

    with pytest.raises(TypeCheckError):
        half(3)
    assert Part(1).share == 1
    for arguments in (("1",), (1.0, (2,))):
        with pytest.raises(TypeCheckError):
            Part(*arguments)


def test_a_name_that_is_not_there_allows_everything() -> None:
    assert str(evaluated("Nowhere", {})) == "typing.Any"
    assert evaluated("list['Tensor']", {"Tensor": Tensor}) == list[Tensor]
