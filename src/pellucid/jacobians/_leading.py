"""The leading singular value of a Jacobian by Golub-Kahan bidiagonalization, without forming the Jacobian."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.jacobians._problem import Model, Outputs, untouched
from pellucid.jacobians._products import Product, linearize

__all__ = ["STEPS", "leading_triple"]

STEPS = 40
"""Maximum number of steps; each takes one product with J (two backward passes) and one with its transpose."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
"""Relative residual at which the iteration has converged. The error of the singular value is about its square."""


def leading_triple(model: Model, x: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return left vector (batch, output, 1), singular value (batch, 1), right vector (batch, 1, input), in float64.

    Returns None if any image has not converged after `STEPS` steps or has a zero Jacobian. The start vector is random
    with a fixed seed. Only the largest value is returned, because a single start vector finds a repeated singular value
    only once.
    """
    with isolated(), untouched(model):
        forward, backward = linearize(model, x, outputs)
        basis = _Basis()
        draws = generator(0, "leading_triple")
        # drawn on the CPU, so that the start is the same on every device
        start = torch.randn(x[0].numel(), generator=draws, dtype=torch.float64, device="cpu").to(x.device)
        right = (start / start.norm()).expand(len(x), -1)
        for _ in range(STEPS):
            step = basis.extend(right, forward, backward)
            if step is None:
                return None
            right, triple, residual = step
            if bool((residual <= TOLERANCE.get(x.dtype, 1e-3) * triple[1]).all()):
                left, value, right = triple
                return left[:, :, None], value[:, None], right[:, None]
    return None


@dataclass(eq=False)
class _Basis:
    """Orthonormal vectors U and V with J V = U B, where B is upper bidiagonal; each vector is (batch, length)."""

    right: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    diagonal: list[Tensor] = field(default_factory=list)
    above: list[Tensor] = field(default_factory=list)

    def extend(
        self, right: Tensor, forward: Product, backward: Product
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor] | None:
        """Return the next right vector, the current leading triple and its residual, or None on breakdown."""
        self.right.append(right)
        image = _orthogonalize(self.left, forward(right).double())
        self.diagonal.append(image.norm(dim=1))
        self.left.append(image / self.diagonal[-1][:, None])
        back = _orthogonalize(self.right, backward(self.left[-1]).double())
        rest = back.norm(dim=1)
        # a zero on the diagonal has made the vectors NaN; the caller decomposes J itself instead
        if not self._is_valid():
            return None
        left, values, vectors = torch.linalg.svd(self._matrix())
        triple = (
            torch.einsum("bnk,bn->bk", torch.stack(self.left, 1), left[:, :, 0]),
            values[:, 0],
            torch.einsum("bni,bn->bi", torch.stack(self.right, 1), vectors[:, 0]),
        )
        self.above.append(rest)
        # the rest is zero for an image that has converged exactly
        tiny = torch.finfo(rest.dtype).tiny
        # Golub-Kahan: the residual is the next off-diagonal entry times the last coefficient of the left vector
        return back / rest.clamp(min=tiny)[:, None], triple, rest * left[:, -1, 0].abs()

    def _is_valid(self) -> bool:
        return bool(torch.stack(self.diagonal).isfinite().all()) and bool((self.diagonal[-1] > 0).all())

    def _matrix(self) -> Tensor:
        """Return B as a dense matrix (batch, step, step)."""
        matrix = torch.diag_embed(torch.stack(self.diagonal, 1))
        return matrix + torch.diag_embed(torch.stack(self.above, 1), 1) if self.above else matrix


def _orthogonalize(basis: list[Tensor], vector: Tensor) -> Tensor:
    """Orthogonalize a vector against the basis, in two passes because one leaves rounding errors."""
    for _ in range(2 if basis else 0):
        stacked = torch.stack(basis, 1)
        vector = vector - torch.einsum("bni,bn->bi", stacked, torch.einsum("bni,bi->bn", stacked, vector))
    return vector
