"""Patterns: for each unit of a kernel operation, the signal direction of its input.

A unit computes y = wᵀx + b from x = s + d: the signal s, which determines its output, and a distractor d, which w must
filter out. The weight w is orthogonal to the distractor rather than aligned with the signal. The pattern a points along
the signal: s is estimated as a·y (Kindermans et al., 2018). Averages run over the images, and over all positions of a
convolution.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.linear_maps import Convolution, Dense
from pellucid.engine.tape import Activation, Affine, Node, Tape

__all__ = ["ESTIMATORS", "Estimator", "PatternSums", "kernels_of", "names_of", "sums_of"]

Estimator = Literal["two_component", "linear"]
"""The estimator that separates the signal from the distractor."""
ESTIMATORS: tuple[Estimator, ...] = ("two_component", "linear")
"""All estimators, the default first."""
KERNELS = ("convolution", "dense")


def kernels_of(tape: Tape) -> list[Affine]:
    """Return the kernel operations the output depends on, in order of use; a module used twice appears twice.

    Raises `UnsupportedOperation` for an operation whose units are not the rows of its weight.
    """
    return [_checked(node) for node in tape.needed() if node.kind in KERNELS]


def _checked(node: Node) -> Affine:
    if (
        isinstance(node, Affine)
        and isinstance(node.map, Convolution | Dense)
        and node.weight is not None
        and node.z.ndim == node.x.ndim
        and node.z.shape[_unit_axis(node)] == len(rows_of(node, node.weight))
    ):
        return node
    raise UnsupportedOperation(
        f"there are no patterns for {node.place}, because its units are not the rows of its weight; write it as a "
        "linear layer or a convolution, or choose a method such as 'lrp.epsilon'."
    )


def names_of(kernels: Sequence[Node]) -> list[str]:
    """Return one name per kernel operation: its position in the order of use, and the module that runs it."""
    return [f"{number:03d} {node.path or 'model'}" for number, node in enumerate(kernels)]


def rows_of(node: Affine, weight: Tensor) -> Tensor:
    """Reshape a weight to one row per unit: (unit, inputs of the unit)."""
    if not _is_transposed(node):
        return weight.flatten(1)
    # a transposed convolution's weight is (inputs, units of a group, *kernel), with the groups along axis 0
    grouped = weight.unflatten(0, (node.map.groups, -1)).flatten(3)  # type: ignore[attr-defined]
    return grouped.transpose(1, 2).flatten(2).flatten(0, 1)


def weight_of(node: Affine, rows: Tensor) -> Tensor:
    """Invert `rows_of`."""
    assert node.weight is not None
    if not _is_transposed(node):
        return rows.view(node.weight.shape)
    groups, ins = node.map.groups, node.weight.shape[0]  # type: ignore[attr-defined]
    grouped = rows.view(groups, node.weight.shape[1], ins // groups, -1)
    return grouped.transpose(1, 2).reshape(node.weight.shape)


def _is_transposed(node: Affine) -> bool:
    return isinstance(node.map, Convolution) and node.map.transposed


class PatternSums:
    """Running sums over a data set for the patterns of one kernel operation, in float64.

    Σ patch·c over all positions equals the weight's gradient for the cotangent c, so no input needs unfolding. y is
    measured relative to its mean over the first batch: this changes no pattern and avoids cancellation.
    """

    def __init__(self, node: Affine, *, is_rectified: bool) -> None:
        self.is_rectified = is_rectified
        """True if a rectifier follows, so that only positions with y > 0 count."""
        self.shape = node.weight.shape if node.weight is not None else torch.Size()
        self._shift = _per_unit(node, node.z) / _places(node)
        self._count = 0
        self._y = torch.zeros_like(self._shift)
        self._yy = torch.zeros_like(self._shift)
        self._z = torch.zeros_like(self._shift)
        self._zy = torch.zeros_like(self._shift)
        self._x: Tensor | float = 0.0
        self._xy: Tensor | float = 0.0

    def add(self, node: Affine) -> None:
        """Add one batch."""
        assert node.weight is not None
        y = node.z - node.map.broadcast(self._shift.to(node.z))
        # the rectifier sees z itself, not the shifted y
        mask = (node.z > 0).to(node.z.dtype) if self.is_rectified else torch.ones_like(node.z)
        masked_y = y * mask
        self._x = self._x + rows_of(node, _weight_gradient(node, mask)).double()
        self._xy = self._xy + rows_of(node, _weight_gradient(node, masked_y)).double()
        self._count += _places(node)
        self._y += _per_unit(node, y)
        self._yy += _per_unit(node, y * y)
        self._z += _per_unit(node, node.z * mask)
        self._zy += _per_unit(node, node.z * masked_y)

    def pattern(self, node: Affine) -> Tensor:
        """Return the pattern of each unit, shaped like the weight; 0 for units without a pattern.

        linear: a = cov[x, y] / var[y], with wᵀa = 1. two_component, if a rectifier follows:
        a = (E₊[xy] − E₊[x] E[y]) / (E₊[y²] − E₊[y] E[y]), with E₊ over the positions where y > 0. Without a bias the
        denominator is wᵀ times the numerator, as in the paper; with a bias, only this form stays positive. A unit that
        is never positive, or constant, has no pattern.
        """
        assert node.weight is not None
        assert isinstance(self._x, Tensor)
        assert isinstance(self._xy, Tensor)
        mean = self._y / self._count
        # sums take the place of the means E₊, because their counts cancel in the quotient
        signal, size = self._xy - self._x * mean[:, None], self._zy - self._z * mean
        # a unit whose spread is below the rounding noise counts as constant
        tiny = 1e-12 if node.weight.dtype == torch.float64 else 1e-5
        deviation = (self._yy / self._count - mean.square()).clamp(min=0).sqrt()
        is_dead = (deviation <= tiny * ((self._yy / self._count).sqrt() + self._shift.abs())) | (size <= 0)
        pattern = torch.where(is_dead[:, None], 0.0, signal / size[:, None])
        return weight_of(node, pattern).to(node.weight.dtype)


def sums_of(tape: Tape, kernels: Iterable[Affine], estimator: Estimator) -> list[PatternSums]:
    """Return empty sums for each kernel operation."""
    followers: dict[int, list[Node]] = {}
    for node in tape.nodes:
        for slot in node.inputs:
            if slot is not None:
                followers.setdefault(slot, []).append(node)
    return [
        PatternSums(node, is_rectified=estimator == "two_component" and _is_rectified(node.output, followers))
        for node in kernels
    ]


def _is_rectified(slot: int, followers: dict[int, list[Node]]) -> bool:
    """True if every use of a value is a rectifier, either directly or after moves and max-pooling."""
    uses = followers.get(slot, [])
    return bool(uses) and all(
        _is_rectified(node.output, followers)
        # max-pooling commutes with a rectifier, so their order does not matter
        if node.kind in ("move", "max")
        else isinstance(node, Activation) and node.is_rectifier
        for node in uses
    )


def _weight_gradient(node: Affine, cotangent: Tensor) -> Tensor:
    """Return Σ patch · cotangent over all positions, shaped like the weight."""
    if isinstance(node.map, Dense):
        return cotangent.flatten(0, -2).t() @ node.x.flatten(0, -2)
    assert isinstance(node.map, Convolution)
    how = (node.map.stride, node.map.padding, node.map.dilation)
    which = (node.map.transposed, node.map.output_padding, node.map.groups)
    # the last argument requests only the gradient with respect to the weight
    answer = torch.ops.aten.convolution_backward(
        cotangent, node.x, node.weight, None, *how, *which, [False, True, False]
    )
    return answer[1]


def _unit_axis(node: Affine) -> int:
    return 1 if isinstance(node.map, Convolution) else node.z.ndim - 1


def _per_unit(node: Affine, values: Tensor) -> Tensor:
    """Sum values shaped like the output over every axis but the units, in float64."""
    return values.sum([axis for axis in range(values.ndim) if axis != _unit_axis(node)], dtype=torch.float64)


def _places(node: Affine) -> int:
    return node.z.numel() // node.z.shape[_unit_axis(node)]
