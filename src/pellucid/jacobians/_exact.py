"""Mixed precision for networks with large depthwise kernels: a float64 forward pass and a float32 backward pass.

In float32, rounding decides near ties of a max-pool. If the wrong element wins, whole patches of the derivative are
wrong. A float64 forward pass by FFT costs no more than a direct one in float32 and selects the right elements.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import ModelError
from pellucid.engine.operations import OPERATIONS
from pellucid.jacobians._double import DoubleModel
from pellucid.jacobians._kernels import KernelSwap, fast_size, way_of
from pellucid.jacobians._plan import Plan, make_plan
from pellucid.jacobians._problem import Problem

__all__ = ["ExactMasks", "doubled", "with_exact_masks"]

TIE_SHARE = 1e-10
"""Values in a max-pool window within this share of the largest absolute maximum count as tied, and the first wins."""

PLUMBING = {"detach", "empty", "lift_fresh"}
"""Operators that torch adds itself, to store values or to allocate memory."""


class ExactMasks(KernelSwap):
    r"""Runs large depthwise convolutions by FFT, forward in float64 and backward in float32.

    An FFT leaves rounding errors where the direct sum is exactly zero or exactly equal to another. Therefore values
    below the error bound \(32 \varepsilon \|x\| \|w\|\) are set to zero, and near ties of a max-pool go to the first
    element, as exact ties do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lowered: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.max_pool2d_with_indices.default:
            return _first_of_the_largest(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _forward(self, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        if way_of(x, weight, rest[1:]) != "fourier" or x.dtype != torch.float64:
            return super()._forward(x, weight, *rest)
        self.swapped.add("fourier")
        bias, _, (top, left) = rest[:3]
        padded = F.pad(x, (left, left, top, top)) if top or left else x
        rows, columns = (size - side + 1 for size, side in zip(padded.shape[2:], weight.shape[2:], strict=True))
        sides = [fast_size(size) for size in padded.shape[2:]]
        multiplier = len(weight) // x.shape[1]
        spectrum = torch.fft.rfft2(padded, sides).repeat_interleave(multiplier, 1)
        # the conjugate spectrum gives cross-correlation, which is what deep learning calls convolution
        spectrum *= torch.fft.rfft2(weight[:, 0], sides).conj_physical()
        image = torch.fft.irfft2(spectrum, sides)[:, :, :rows, :columns].contiguous()
        norms = x.flatten(2).norm(dim=2).repeat_interleave(multiplier, 1) * weight.flatten(1).norm(dim=1)
        error = 32 * torch.finfo(x.dtype).eps * norms[:, :, None, None]
        image.masked_fill_(image.abs() < error, 0)
        return image if bias is None else image.add_(bias[:, None, None])

    def _backward(self, args: Any) -> tuple[Tensor, None, None]:
        gradient, x, weight, *rest = args
        if x.dtype != torch.float64:
            return super()._backward(args)
        # stored with the weight, which keeps its address from being reused
        if weight.data_ptr() not in self._lowered:
            self._lowered[weight.data_ptr()] = weight, weight.float()
        # only the shape of x enters the gradient by the input, not its values
        shape = x.new_empty(x.shape, dtype=torch.float32)
        input_gradient = super()._backward((gradient.float(), shape, self._lowered[weight.data_ptr()][1], *rest))[0]
        return input_gradient.double(), None, None


def with_exact_masks(plan: Plan) -> Plan:
    """Return a plan with a float64 forward pass, or `plan` itself if that is slower or impossible."""
    problem, kernels = plan.problem, plan.kernels
    is_single_float32 = len(problem.inputs) == 1 and problem.inputs[0].dtype == torch.float32
    if not is_single_float32 or "fourier" not in plan.layout.swapped or not isinstance(problem.model, nn.Module):
        return plan
    # others, such as a sort, may compare values that are equal in exact arithmetic but not after an FFT
    operations = kernels.operations if kernels is not None else set()
    if not all(OPERATIONS.named(name).is_smooth for name in operations - PLUMBING):
        return plan
    exact = ExactMasks()
    try:
        exact_plan = make_plan(doubled(problem), exact)
    except ModelError:  # the model does not run in float64
        return plan
    swapped = exact_plan.layout.swapped | {"double"}
    return replace(exact_plan, layout=replace(exact_plan.layout, swapped=swapped))


def doubled(problem: Problem) -> Problem:
    """Return the problem with the model and inputs in float64. Raises `ModelError` if the model cannot be copied."""
    assert isinstance(problem.model, nn.Module)
    double = DoubleModel(problem.model)
    inputs = tuple(double.prepare(tensor) for tensor in problem.inputs)
    return replace(problem, model=double, inputs=inputs, modules=())


def _first_of_the_largest(
    x: Tensor, kernel: list[int], stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
) -> tuple[Tensor, Tensor]:
    """Max-pool with indices; among values that are equal up to rounding, the first one wins."""
    largest, winner = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil)
    least = largest - TIE_SHARE * largest.abs().amax()
    sides, gaps, pads = (_pair(value) for value in (kernel, dilation, padding))
    steps, outputs = _pair(stride) if len(stride) else sides, largest.shape[2:]
    spans = [(count - 1) * step + 1 for count, step in zip(outputs, steps, strict=True)]
    ends = [max(0, spans[at] + (sides[at] - 1) * gaps[at] - x.shape[2 + at] - pads[at]) for at in (0, 1)]
    is_inside = not any((*pads, *ends))
    # -inf padding also covers the partial windows that ceil_mode adds at the end
    padded_x = x if is_inside else F.pad(x, (pads[1], ends[1], pads[0], ends[0]), value=-torch.inf)
    rows, columns = (torch.arange(count, device=x.device) for count in outputs)
    starts = rows[:, None] * (steps[0] * x.shape[3]) + columns * steps[1]
    # from the last window position to the first, so that the first tied one is written last and wins
    for position in reversed(range(sides[0] * sides[1])):
        row, column = position // sides[1] * gaps[0], position % sides[1] * gaps[1]
        # a strided slice holds the value at this position of every window
        values = padded_x[:, :, row : row + spans[0] : steps[0], column : column + spans[1] : steps[1]]
        index = starts + ((row - pads[0]) * x.shape[3] + column - pads[1])
        winner = torch.where(values >= least, index, winner)
    return largest, winner


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1])
