"""The leading singular value of a Jacobian that is never formed, by Golub-Kahan bidiagonalisation."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.jacobian._problem import Model, Outputs, untouched
from pellucid.jacobian._products import Product, linearise

__all__ = ["STEPS", "leading_triple"]

STEPS = 40
"""So many steps at most, each of a product with J (the cost of two backward passes) and one with its transpose."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
"""The residual, as a share of the singular value, at which it has converged; its own error is that squared."""


def leading_triple(model: Model, x: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor] | None:
    """Left vector (batch, output, 1), singular value (batch, 1), right vector (batch, 1, input), in float64.

    None where some image's has not converged after `STEPS` steps, or its Jacobian is zero. The vectors begin at random,
    from a fixed seed. Values other than the largest are not told: one vector sees a repeated value only once.
    """
    with isolated(), untouched(model):
        forward, backward = linearise(model, x, outputs)
        basis = _Basis()
        draws = generator(0, "leading_triple")
        start = torch.randn(x[0].numel(), generator=draws, dtype=torch.float64, device="cpu").to(x.device)
        right = (start / start.norm()).expand(len(x), -1)
        for _ in range(STEPS):
            found = basis.extended(right, forward, backward)
            if found is None:
                return None
            right, triple, residual = found
            if bool((residual <= TOLERANCE.get(x.dtype, 1e-3) * triple[1]).all()):
                left, value, right = triple
                return left[:, :, None], value[:, None], right[:, None]
    return None


@dataclass(eq=False)
class _Basis:
    """Orthonormal vectors with J V = U B, B of two diagonals; each vector (batch, length)."""

    right: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    diagonal: list[Tensor] = field(default_factory=list)
    above: list[Tensor] = field(default_factory=list)

    def extended(
        self, right: Tensor, forward: Product, backward: Product
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor] | None:
        """One step: the next right vector, the leading triple so far, and its residual; None where it breaks down."""
        self.right.append(right)
        image = _against(self.left, forward(right).double())
        self.diagonal.append(image.norm(dim=1))
        self.left.append(image / self.diagonal[-1][:, None])
        back = _against(self.right, backward(self.left[-1]).double())
        rest = back.norm(dim=1)
        if not self._is_whole():
            return None
        left, values, vectors = torch.linalg.svd(self._matrix())
        triple = (
            torch.einsum("bnk,bn->bk", torch.stack(self.left, 1), left[:, :, 0]),
            values[:, 0],
            torch.einsum("bni,bn->bi", torch.stack(self.right, 1), vectors[:, 0]),
        )
        self.above.append(rest)
        tiny = torch.finfo(rest.dtype).tiny
        return back / rest.clamp(min=tiny)[:, None], triple, rest * left[:, -1, 0].abs()

    def _is_whole(self) -> bool:
        return bool(torch.stack(self.diagonal).isfinite().all()) and bool((self.diagonal[-1] > 0).all())

    def _matrix(self) -> Tensor:
        """B (batch, step, step)."""
        matrix = torch.diag_embed(torch.stack(self.diagonal, 1))
        return matrix + torch.diag_embed(torch.stack(self.above, 1), 1) if self.above else matrix


def _against(basis: list[Tensor], vector: Tensor) -> Tensor:
    """What of a vector is orthogonal to the basis; twice, for rounding."""
    for _ in range(2 if basis else 0):
        stacked = torch.stack(basis, 1)
        vector = vector - torch.einsum("bni,bn->bi", stacked, torch.einsum("bni,bi->bn", stacked, vector))
    return vector
