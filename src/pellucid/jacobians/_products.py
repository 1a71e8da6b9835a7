"""Products with the Jacobian J and its transpose, without forming J."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.engine.derivatives import derivatives, unseen_changes, zero_rows
from pellucid.engine.inputs import one_tensor
from pellucid.jacobians._finite import check_finite
from pellucid.jacobians._missing import WAY_OUT, check_zeros, no_derivative
from pellucid.jacobians._plan import Plan, make_plan
from pellucid.jacobians._problem import Model, Outputs, Problem, untouched

__all__ = ["Product", "jacobian_product", "linearize", "transposed_product"]

Product = Callable[[Tensor], Tensor]
"""A product that maps (batch, input) to (batch, output), or the reverse."""


def jacobian_product(model: Model, x: Tensor, vectors: Tensor, outputs: Outputs = None) -> Tensor:
    r"""Compute \(J v\), the change of the outputs along one input direction per image: (batch, *outputs).

    `vectors` has the shape of `x`. Costs one forward and two backward passes regardless of size: the transposed product
    \(J^T u\) is linear in u, and its derivative with respect to u along v is \(J v\). Raises `ShapeError` for vectors
    of the wrong shape, and otherwise whatever `jacobian` raises.

    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> v = torch.rand(4, 3)
    >>> torch.allclose(jacobian_product(layer, torch.rand(4, 3), v), layer(v))
    True
    """
    x, vectors = one_tensor(x, model, "x"), one_tensor(vectors, model, "vectors")
    if vectors.shape != x.shape:
        raise ShapeError(f"expected vectors of the shape of x, {tuple(x.shape)}, got {tuple(vectors.shape)}.")
    with isolated(), _prepared(model, x, outputs) as (plan, leaf, flat):
        dummy, row = _linear(flat, leaf)
        product = _along(row, dummy, vectors.to(row))
        check_finite((), None, [product])
        _check_product(plan, leaf, row, dummy, product)
        return product.reshape(len(x), *plan.result_shape).to(x)


def transposed_product(model: Model, x: Tensor, vectors: Tensor, outputs: Outputs = None) -> Tensor:
    r"""Compute \(J^T u\), the gradient of the outputs weighted by `vectors` (batch, *outputs), in the shape of `x`.

    Costs one forward and one backward pass. Raises `ShapeError` for vectors of the wrong shape, and otherwise whatever
    `jacobian` raises.

    >>> layer = torch.nn.Linear(3, 2)
    >>> transposed_product(layer, torch.rand(4, 3), torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """
    x, vectors = one_tensor(x, model, "x"), one_tensor(vectors, model, "vectors")
    with isolated(), _prepared(model, x, outputs) as (plan, leaf, flat):
        expected = (len(x), *plan.result_shape)
        if vectors.shape != expected:
            raise ShapeError(f"expected vectors of the shape of the outputs, {expected}, got {tuple(vectors.shape)}.")
        cotangent = vectors.reshape(flat.shape).to(flat)
        (product,) = derivatives(flat, [leaf], cotangent, way_out=WAY_OUT)
        assert product is not None
        check_finite((), None, [product])
        _check_transposed(plan, leaf, cotangent, product)
        return product.to(x)


def linearize(model: Model, x: Tensor, outputs: Outputs) -> tuple[Product, Product]:
    """Return products of flat vectors with J and with its transpose, which share one forward pass.

    Call this, and use the products, inside `isolated()` and `untouched(model)`.
    """
    plan, leaf, flat = _run(Problem.of(model, x, outputs))
    dummy, row = _linear(flat, leaf)
    is_checked = False

    def forward(vectors: Tensor) -> Tensor:
        nonlocal is_checked
        product = _along(row, dummy, vectors.to(row).view_as(row))
        if not is_checked:  # once is enough, because every product uses the same graph
            is_checked = True
            _check_product(plan, leaf, row, dummy, product)
        return product

    def backward(vectors: Tensor) -> Tensor:
        (product,) = derivatives(flat, [leaf], vectors.to(flat), way_out=WAY_OUT, retain_graph=True)
        assert product is not None
        return product.flatten(1)

    return forward, backward


@contextmanager
def _prepared(model: Model, x: Tensor, outputs: Outputs) -> Iterator[tuple[Plan, Tensor, Tensor]]:
    """Yield the result of `_run` while the model is frozen."""
    problem = Problem.of(model, x, outputs)
    with problem.explained_errors(), untouched(model):
        yield _run(problem)


def _linear(flat: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return a cotangent u and \(J^T u\) with a graph, so that differentiating by u again gives \(J v\).

    The value of u does not matter, because the product is linear in it.
    """
    dummy = torch.zeros_like(flat, requires_grad=True)
    (row,) = derivatives(flat, [leaf], dummy, way_out=WAY_OUT, create_graph=True)
    assert row is not None
    return dummy, row


def _along(row: Tensor, dummy: Tensor, vectors: Tensor) -> Tensor:
    """Differentiate the transposed product by its cotangent along `vectors`: the product with J (batch, output)."""
    if not row.requires_grad:
        return torch.zeros_like(dummy)
    return torch.autograd.grad(row, dummy, vectors, retain_graph=True, materialize_grads=True)[0]


def _check_product(plan: Plan, leaf: Tensor, row: Tensor, dummy: Tensor, product: Tensor) -> None:
    """Raise `UnsupportedOperation` if an output changes with the input although its row of J is zero.

    A product may also be zero because the vector misses the inputs that an output depends on. J is therefore applied to
    a random vector, for which only zero rows give zero.
    """
    if plan.problem.known_layers or bool(product.all()):
        return
    noise = torch.randn(row.shape, generator=generator(0, "jacobian_product"), dtype=torch.float64, device="cpu").to(
        row
    )
    is_zero = _along(row, dummy, noise) == 0
    if bool(is_zero.any()):
        check_zeros(plan.problem, [leaf], plan.problem.floats[0], is_zero, plan.wanted)


def _check_transposed(plan: Plan, leaf: Tensor, cotangent: Tensor, product: Tensor) -> None:
    """Raise `UnsupportedOperation` if the weighted sum of outputs changes with an image but has no gradient."""
    is_zero = None if plan.problem.known_layers else zero_rows(product)
    if is_zero is None:
        return
    wanted = list(plan.wanted)

    def weighted(x: Tensor) -> Tensor:
        return (plan.problem.call([x]).reshape(len(x), -1)[:, wanted] * cotangent).sum(1, keepdim=True)

    is_unseen = unseen_changes(weighted, leaf, is_zero[:, None])[:, 0]
    if bool(is_unseen.any()):
        used = [
            index for index, weight in zip(wanted, (cotangent[is_unseen] != 0).any(0).tolist(), strict=True) if weight
        ]
        raise UnsupportedOperation(no_derivative(used) + f"; {WAY_OUT}")


def _run(problem: Problem) -> tuple[Plan, Tensor, Tensor]:
    """Return the plan, the leaf, and the wanted outputs (batch, output) with their graph, after all checks."""
    plan = make_plan(problem)
    leaves, flat = plan.first or ((), torch.empty(0, dtype=torch.float32, device="cpu"))
    if problem.batch > 1:
        leaves = problem.part(0, problem.batch)
        flat = plan.verify(leaves)
    check_finite([leaves[0].detach()], flat, (), wanted=plan.wanted)
    return plan, leaves[0], flat if problem.indices is None else flat[:, list(plan.wanted)]
