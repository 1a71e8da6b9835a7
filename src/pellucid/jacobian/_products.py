"""Products with J and its transpose, without forming it."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.jacobian._finite import check_finite
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
    with torch.inference_mode(False), torch.enable_grad(), untouched(model):
        plan, leaf, flat = _run(model, x, outputs)
        dummy = torch.zeros_like(flat, requires_grad=True)
        (row,) = torch.autograd.grad(flat, leaf, dummy, create_graph=True)
        if not row.requires_grad:
            return x.new_zeros((len(x), *plan.result_shape))
        (product,) = torch.autograd.grad(row, dummy, vectors.to(row), materialize_grads=True)
    check_finite((), None, [product])
    return product.reshape(len(x), *plan.result_shape).to(x)


def transposed_product(model: Model, x: Tensor, vectors: Tensor, outputs: Outputs = None) -> Tensor:
    r"""\(J^T u\): the gradient of the outputs weighted by `vectors` (batch, *outputs); like `x`.

    Costs one forward and one backward pass. Refuses what `jacobian` refuses; raises `ShapeError` for vectors that do
    not fit the outputs.

    >>> layer = torch.nn.Linear(3, 2)
    >>> transposed_product(layer, torch.rand(4, 3), torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """
    with torch.inference_mode(False), torch.enable_grad(), untouched(model):
        plan, leaf, flat = _run(model, x, outputs)
        expected = (len(x), *plan.result_shape)
        if vectors.shape != expected:
            raise ShapeError(f"vectors has shape {tuple(vectors.shape)}; it should be like the outputs: {expected}.")
        (product,) = torch.autograd.grad(flat, leaf, vectors.reshape(flat.shape).to(flat))
    check_finite((), None, [product])
    return product.to(x)


def linearise(model: Model, x: Tensor, outputs: Outputs) -> tuple[Product, Product]:
    """Products with J and with its transpose, of flat vectors, that share one forward pass.

    To be called and used where gradients are enabled and the model is untouched.
    """
    _, leaf, flat = _run(model, x, outputs)
    dummy = torch.zeros_like(flat, requires_grad=True)
    (row,) = torch.autograd.grad(flat, leaf, dummy, create_graph=True)

    def forward(vectors: Tensor) -> Tensor:
        if not row.requires_grad:
            return torch.zeros_like(flat)
        rows = vectors.to(row).view_as(row)
        return torch.autograd.grad(row, dummy, rows, retain_graph=True, materialize_grads=True)[0]

    def backward(vectors: Tensor) -> Tensor:
        return torch.autograd.grad(flat, leaf, vectors.to(flat), retain_graph=True)[0].flatten(1)

    return forward, backward


def _run(model: Model, x: Tensor, outputs: Outputs) -> tuple[Plan, Tensor, Tensor]:
    """The plan, the leaf, and the wanted outputs (batch, output) with their graph; input and outputs found finite."""
    problem = Problem.of(model, x, outputs)
    plan = make_plan(problem)
    leaves, flat = plan.first or ((), torch.empty(0))
    if problem.batch > 1:
        leaves = problem.part(0, problem.batch)
        flat = plan.prove(leaves)
    check_finite([leaves[0].detach()], flat, (), wanted=plan.wanted)
    return plan, leaves[0], flat if problem.indices is None else flat[:, list(plan.wanted)]
