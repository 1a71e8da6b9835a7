"""Products with J and its transpose, without forming it."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.engine.derivatives import derivatives, unseen_changes, zero_rows
from pellucid.jacobian._finite import check_finite
from pellucid.jacobian._missing import WAY_OUT, check_zeros, no_derivative
from pellucid.jacobian._plan import Plan, make_plan
from pellucid.jacobian._problem import Model, Outputs, Problem, untouched

__all__ = ["Product", "jacobian_product", "linearise", "transposed_product"]

Product = Callable[[Tensor], Tensor]
"""From (batch, input) to (batch, output), or back."""


def jacobian_product(model: Model, x: Tensor, vectors: Tensor, outputs: Outputs = None) -> Tensor:
    r"""\(J v\): how the outputs change along one direction of the input, image by image: (batch, *outputs).

    `vectors` is like `x`. Costs one forward and two backward passes, whatever the sizes: the transposed product
    \(J^T u\) is linear in u, and its derivative by u along v is \(J v\). Refuses what `jacobian` refuses; raises
    `ShapeError` for vectors of another shape.

    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> v = torch.rand(4, 3)
    >>> torch.allclose(jacobian_product(layer, torch.rand(4, 3), v), layer(v))
    True
    """
    if vectors.shape != x.shape:
        raise ShapeError(f"vectors has shape {tuple(vectors.shape)}; it should be like x: {tuple(x.shape)}.")
    with isolated(), untouched(model):
        plan, leaf, flat = _run(model, x, outputs)
        dummy, row = _linear(flat, leaf)
        product = _along(row, dummy, vectors.to(row))
        check_finite((), None, [product])
        _check_product(plan, leaf, row, dummy, product)
        return product.reshape(len(x), *plan.result_shape).to(x)


def transposed_product(model: Model, x: Tensor, vectors: Tensor, outputs: Outputs = None) -> Tensor:
    r"""\(J^T u\): the gradient of the outputs weighted by `vectors` (batch, *outputs); like `x`.

    Costs one forward and one backward pass. Refuses what `jacobian` refuses; raises `ShapeError` for vectors that do
    not fit the outputs.

    >>> layer = torch.nn.Linear(3, 2)
    >>> transposed_product(layer, torch.rand(4, 3), torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """
    with isolated(), untouched(model):
        plan, leaf, flat = _run(model, x, outputs)
        expected = (len(x), *plan.result_shape)
        if vectors.shape != expected:
            raise ShapeError(f"vectors has shape {tuple(vectors.shape)}; it should be like the outputs: {expected}.")
        cotangent = vectors.reshape(flat.shape).to(flat)
        (product,) = derivatives(flat, [leaf], cotangent, way_out=WAY_OUT)
        assert product is not None
        check_finite((), None, [product])
        _check_transposed(plan, leaf, cotangent, product)
        return product.to(x)


def linearise(model: Model, x: Tensor, outputs: Outputs) -> tuple[Product, Product]:
    """Products with J and with its transpose, of flat vectors, that share one forward pass.

    To be called and used isolated, with the model untouched.
    """
    plan, leaf, flat = _run(model, x, outputs)
    dummy, row = _linear(flat, leaf)
    is_checked = False

    def forward(vectors: Tensor) -> Tensor:
        nonlocal is_checked
        product = _along(row, dummy, vectors.to(row).view_as(row))
        if not is_checked:
            is_checked = True
            _check_product(plan, leaf, row, dummy, product)
        return product

    def backward(vectors: Tensor) -> Tensor:
        (product,) = derivatives(flat, [leaf], vectors.to(flat), way_out=WAY_OUT, retain_graph=True)
        assert product is not None
        return product.flatten(1)

    return forward, backward


def _linear(flat: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """A cotangent u of the outputs, and its transposed product, with a graph in which that is linear in u."""
    dummy = torch.zeros_like(flat, requires_grad=True)
    (row,) = derivatives(flat, [leaf], dummy, way_out=WAY_OUT, create_graph=True)
    assert row is not None
    return dummy, row


def _along(row: Tensor, dummy: Tensor, vectors: Tensor) -> Tensor:
    """The derivative of the transposed product by its cotangent, along `vectors`: the product (batch, output)."""
    if not row.requires_grad:
        return torch.zeros_like(dummy)
    return torch.autograd.grad(row, dummy, vectors, retain_graph=True, materialize_grads=True)[0]


def _check_product(plan: Plan, leaf: Tensor, row: Tensor, dummy: Tensor, product: Tensor) -> None:
    """Raise `UnsupportedOperation` where an output changes with the input and its row of J is zero.

    A product is zero too where the vector meets no input that its output depends on. So J is applied to a random
    vector, whose product is zero for zero rows alone.
    """
    if plan.problem.known_layers or bool(product.all()):
        return
    noise = torch.randn(row.shape, generator=generator(0, "jacobian_product"), dtype=torch.float64).to(row)
    is_zero = _along(row, dummy, noise) == 0
    if bool(is_zero.any()):
        check_zeros(plan.problem, [leaf], plan.problem.floats[0], is_zero, plan.wanted)


def _check_transposed(plan: Plan, leaf: Tensor, cotangent: Tensor, product: Tensor) -> None:
    """Raise `UnsupportedOperation` where the weighted sum of the outputs changes with an image and has no gradient."""
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


def _run(model: Model, x: Tensor, outputs: Outputs) -> tuple[Plan, Tensor, Tensor]:
    """The plan, the leaf, and the wanted outputs (batch, output) with their graph; input and outputs found finite."""
    problem = Problem.of(model, x, outputs)
    plan = make_plan(problem)
    leaves, flat = plan.first or ((), torch.empty(0, dtype=torch.float32, device="cpu"))
    if problem.batch > 1:
        leaves = problem.part(0, problem.batch)
        flat = plan.prove(leaves)
    check_finite([leaves[0].detach()], flat, (), wanted=plan.wanted)
    return plan, leaves[0], flat if problem.indices is None else flat[:, list(plan.wanted)]
