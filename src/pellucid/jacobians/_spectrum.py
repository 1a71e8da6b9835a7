"""Singular values and vectors of each image's Jacobian."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.isolation import isolated
from pellucid.core.showing import Shown
from pellucid.engine.inputs import one_tensor
from pellucid.jacobians._finite import counted_from
from pellucid.jacobians._jacobian import jacobian
from pellucid.jacobians._leading import STEPS, leading_triple
from pellucid.jacobians._native.job import expected_images
from pellucid.jacobians._plan import make_plan
from pellucid.jacobians._problem import Model, Outputs, Problem, check_count, untouched

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]

LARGEST_ENTRIES = 20_000_000
"""Maximum number of Jacobian entries held in float64 at once."""


@dataclass(frozen=True, eq=False, repr=False)
class JacobianSpectrum(Shown):
    r"""\(J = \sum_r s_r u_r v_r^T\) for each image."""

    values: Float[Tensor, "batch rank"]
    """Singular values in descending order, in units of output per unit of input; the first is the spectral norm."""
    left: Tensor
    """Left singular vectors (batch, rank, *outputs): outputs that change together. Unit length."""
    right: Tensor
    """Right singular vectors (batch, rank, *inputs): the input pattern that changes them. Unit length. Signs are chosen
    so that the largest entry of `left` is positive."""


def jacobian_spectrum(
    model: Model, x: Tensor, outputs: Outputs = None, *, count: int | None = None, chunk: int | None = None
) -> JacobianSpectrum:
    r"""Compute the singular values and vectors of each image's Jacobian, or the `count` leading ones.

    The first right vector is the unit change of the input that changes the outputs most, by \(s_1\). The decomposition
    is computed in float64 from J, chunk by chunk. For `count=1` and many outputs and inputs, it uses products with J
    instead, which is cheaper and never forms J. Raises `ShapeError` for a count below 1, and otherwise whatever
    `jacobian` raises.

    >>> layer = torch.nn.Linear(3, 2)
    >>> spectrum = jacobian_spectrum(layer, torch.rand(4, 3))
    >>> torch.allclose(spectrum.values[0], torch.linalg.svdvals(layer.weight))
    True
    """
    count = check_count("count", count, "singular values")
    chunk = check_count("chunk", chunk, "images per forward pass")
    x = one_tensor(x, model, "x")
    with isolated():
        with Problem.of(model, x, outputs).explained_errors(), untouched(model):
            plan = make_plan(Problem.of(model, x[:1], outputs))  # only for the shape of the outputs
        shape, inputs = plan.result_shape, x[0].numel()
        # each step costs about as much as three rows of J, and up to STEPS of them are needed
        is_iterated = count == 1 and min(shape.numel(), inputs) > 3 * STEPS
        parts: list[list[Tensor]] = []
        for part in x.split(chunk or max(1, LARGEST_ENTRIES // max(1, shape.numel() * inputs))):
            with expected_images(len(x)), counted_from(sum(len(values) for values, *_ in parts)):
                triple = leading_triple(model, part, outputs) if is_iterated else None
                # no triple: the iteration has not converged
                left, values, right = triple or _decompose(jacobian(model, part, outputs, chunk=chunk), shape, count)
            largest = left.gather(1, left.abs().argmax(1, keepdim=True))  # (batch, 1, rank)
            sign = torch.where(largest < 0, -1.0, 1.0).to(left)
            left = (left * sign).mT.unflatten(2, shape) if shape else (left * sign).mT.squeeze(2)
            right = (right * sign.mT).unflatten(2, x.shape[1:])
            parts.append([tensor.to(x) for tensor in (values, left, right)])
        return JacobianSpectrum(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _decompose(full: Tensor, shape: torch.Size, count: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return left (batch, output, rank), values (batch, rank) and right (batch, rank, input) of full Jacobians."""
    rows = full.reshape(len(full), shape.numel(), -1).double()
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    return left[:, :, :count], values[:, :count], right[:, :count]
