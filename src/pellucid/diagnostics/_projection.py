"""Random projections, which shrink gradients of many parameters while approximately preserving their inner products."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.core.options import Range, check_argument
from pellucid.core.seeding import generator

__all__ = ["Kind", "Projection"]

Kind = Literal["sparse", "rademacher", "gaussian"]

BLOCK = 2048
"""Number of parameters whose random signs or normals are drawn from one seed."""
MOST_KEPT = 64_000_000
"""Maximum number of values of a dense matrix that is kept in memory; a larger one is drawn again for each batch."""


@dataclass(frozen=True)
class Projection:
    """A random linear map from gradients to `dimensions` numbers that preserves inner products on average.

    The standard error of an inner product ⟨u, v⟩ is at most √(2 / dimensions) · |u| |v|, for every kind:

    - `sparse` adds each parameter to one of the numbers with a random sign (a count sketch; Charikar et al., 2002). It
      takes one addition per parameter, and no matrix.
    - `rademacher` and `gaussian` multiply by a dense matrix of ±1 or of standard normals, divided by √dimensions.

    All random numbers follow from `seed`. A network with at most `dimensions` parameters is not projected.

    >>> Projection(512).standard_error, Projection(512).error_for(100)
    (0.0625, 0.0)
    """

    dimensions: int = 1024
    """Length of a projected gradient."""
    kind: Kind = "sparse"
    seed: int = 0

    def __post_init__(self) -> None:
        check_argument("Projection", "dimensions", self.dimensions, Annotated[int, Range(1)])
        check_argument("Projection", "kind", self.kind, Kind)
        check_argument("Projection", "seed", self.seed, Annotated[int, Range(0)])

    @property
    def standard_error(self) -> float:
        """Upper bound of the standard error of an inner product, as a share of the product of the norms."""
        return math.sqrt(2 / self.dimensions)

    def error_for(self, parameters: int) -> float:
        """Return the same for gradients of a number of parameters: 0 if they are not projected."""
        return 0.0 if parameters <= self.dimensions else self.standard_error

    def sketch(self, parameters: int, *place: int | str, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function that projects (sample, parameter) to (sample, dimension).

        Other values of `place` give independent projections. `like` has the device and dtype of the gradients.
        """
        if parameters <= self.dimensions:
            return partial(_checked, parameters, _unchanged)
        if self.kind == "sparse":
            draw = generator(self.seed, "projection", *place)
            buckets = torch.randint(self.dimensions, (parameters,), generator=draw, device="cpu")
            signs = torch.randint(2, (parameters,), generator=draw, device="cpu") * 2 - 1
            buckets, signs = buckets.to(like.device), signs.to(like.device, like.dtype)
            return partial(_checked, parameters, partial(_counted, self.dimensions, buckets, signs))
        blocks = _Blocks(self, parameters, place, like.device, like.dtype)
        return partial(_checked, parameters, blocks.product)


def _checked(parameters: int, sketch: Callable[[Tensor], Tensor], gradients: Tensor) -> Tensor:
    if gradients.ndim != 2 or gradients.shape[1] != parameters:
        raise ShapeError(f"expected gradients of shape (sample, {parameters}), got {tuple(gradients.shape)}.")
    return sketch(gradients)


def _unchanged(gradients: Tensor) -> Tensor:
    return gradients


def _counted(dimensions: int, buckets: Tensor, signs: Tensor, gradients: Tensor) -> Tensor:
    sums = torch.zeros(len(gradients), dimensions, device=gradients.device, dtype=gradients.dtype)
    return sums.scatter_add_(1, buckets.expand_as(gradients), gradients * signs)


class _Blocks:
    """A dense random matrix (parameter, dimension), as blocks of rows."""

    def __init__(
        self, projection: Projection, parameters: int, place: tuple[Any, ...], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.projection, self.parameters, self.place = projection, parameters, place
        self.device, self.dtype = device, dtype
        self.kept: list[Tensor] | None = None
        if parameters * projection.dimensions <= MOST_KEPT:
            self.kept = [self.block(start) for start in range(0, parameters, BLOCK)]

    def block(self, start: int) -> Tensor:
        """Draw the rows from `start` on, on the CPU, so that all devices get the same."""
        shape = (min(BLOCK, self.parameters - start), self.projection.dimensions)
        draw = generator(self.projection.seed, "projection", *self.place, start)
        if self.projection.kind == "gaussian":
            values = torch.randn(shape, generator=draw, device="cpu", dtype=torch.float32)
        else:
            values = torch.randint(2, shape, generator=draw, device="cpu", dtype=torch.int8).float() * 2 - 1
        return values.to(self.device, self.dtype) / math.sqrt(self.projection.dimensions)

    def product(self, gradients: Tensor) -> Tensor:
        """Multiply gradients by the matrix."""
        sums = torch.zeros(len(gradients), self.projection.dimensions, device=gradients.device, dtype=gradients.dtype)
        for number, start in enumerate(range(0, self.parameters, BLOCK)):
            block = self.block(start) if self.kept is None else self.kept[number]
            sums.addmm_(gradients[:, start : start + BLOCK], block)
        return sums
