"""The type checks that all other tests run under."""

import gc
import weakref
from collections.abc import Callable
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


def test_functions_inside_of_others_are_checked_around_their_own_values() -> None:
    def outer(value: object) -> Callable[..., list[object]]:
        @check
        def inner(count: int, *, more: "float" = 1.0) -> list[object]:
            return [value, count, more] if count else value  # type: ignore[return-value]

        return inner

    first, second = outer(Tensor), outer("a")
    assert first.__code__ is second.__code__  # compiled once
    assert first(1) == [Tensor, 1, 1.0]
    assert second(2, more=3) == ["a", 2, 3]
    assert first(1) == [Tensor, 1, 1.0]
    for one in (first, second):
        for arguments, options in ((("1",), {}), ((1,), {"more": "1"}), ((0,), {})):
            with pytest.raises(TypeCheckError):
                one(*arguments, **options)


def test_checks_keep_no_values_alive() -> None:
    class Value: ...

    def outer(value: Value) -> Callable[[int], Value]:
        @check
        def inner(count: int) -> Value:
            return value

        return inner

    value = Value()
    alive = weakref.ref(value)
    assert outer(value)(1) is value
    del value
    gc.collect()
    assert alive() is None


def test_annotations_that_differ_between_calls_are_each_checked() -> None:
    def outer(kind: type) -> Callable[[object], object]:
        @check
        def inner(value: kind) -> object:  # type: ignore[valid-type]
            return value

        return inner

    assert outer(int)(1) == 1
    assert outer(str)("a") == "a"
    with pytest.raises(TypeCheckError):
        outer(str)(1)
