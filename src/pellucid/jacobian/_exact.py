"""Float64 where a kink is decided, float32 where the arithmetic is: for networks of large depthwise kernels.

In float32, rounding decides the close calls of a max-pool, and where it decides otherwise than the exact network, whole
patches of the derivative are another one. A float64 forward pass by FFT costs no more than a direct one in float32, so
there the close calls are decided right.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import ModelError
from pellucid.jacobian._double import DoubleModel
from pellucid.jacobian._kernels import KernelSwap, fast_size, way_of
from pellucid.jacobian._plan import Plan, make_plan
from pellucid.jacobian._problem import Problem

__all__ = ["ExactMasks", "doubled", "with_exact_masks"]

TIE_SHARE = 1e-10
"""Values of a max-pool's window that differ by less than this share of the largest value are equal: the first wins."""

KNOWN = {
    *("convolution", "addmm", "mm", "bmm", "native_batch_norm", "_native_batch_norm_legit_no_training"),
    *("relu", "relu_", "leaky_relu", "threshold", "max_pool2d_with_indices"),
    *("elu", "gelu", "silu", "tanh", "sigmoid", "softplus", "_softmax", "_log_softmax"),
    *("avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "add", "add_", "sub", "mul", "div"),
    *("addcmul", "neg", "rsqrt"),  # batch norm as an affine map
    *("constant_pad_nd", "cat", "clone", "copy_", "_to_copy", "empty", "empty_like", "lift_fresh", "alias", "detach"),
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "expand",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
    ),
}
"""Operations whose kinks are a sign's or a max-pool's; others may compare values that an FFT leaves nearly equal."""


class ExactMasks(KernelSwap):
    r"""A forward pass in float64 by FFT, and the way back of the same convolutions by FFT in float32.

    An FFT leaves rounding where the direct sum is exactly zero or exactly equal. So what is below its error bound,
    \(32 \varepsilon \|x\| \|w\|\), is set to zero, and near ties of a max-pool count as ties, of which the first wins.
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
        if weight.data_ptr() not in self._lowered:
            self._lowered[weight.data_ptr()] = weight, weight.float()
        shape = x.new_empty(x.shape, dtype=torch.float32)  # its values do not enter the gradient
        found = super()._backward((gradient.float(), shape, self._lowered[weight.data_ptr()][1], *rest))[0]
        return found.double(), None, None


def with_exact_masks(plan: Plan) -> Plan:
    """The plan of the same network in float64, or the plan itself where that does not pay or cannot be."""
    problem, kernels = plan.problem, plan.kernels
    is_one = len(problem.inputs) == 1 and problem.inputs[0].dtype == torch.float32
    if not is_one or "fourier" not in plan.layout.swapped or not kernels.operations.issubset(KNOWN):
        return plan
    if not isinstance(problem.model, nn.Module):
        return plan
    exact = ExactMasks()
    try:
        found = make_plan(doubled(problem), exact)
    except ModelError:  # it does not run in float64
        return plan
    swapped = found.layout.swapped | {"double"}
    return replace(found, layout=replace(found.layout, swapped=swapped))


def doubled(problem: Problem) -> Problem:
    """The same network in float64; raises `ModelError` where it cannot be copied."""
    assert isinstance(problem.model, nn.Module)
    double = DoubleModel(problem.model)
    return replace(problem, model=double, inputs=tuple(double.prepare(tensor) for tensor in problem.inputs))


def _first_of_the_largest(
    x: Tensor, kernel: list[int], stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
) -> tuple[Tensor, Tensor]:
    """A max-pool, with indices: of values that are equal up to rounding the first one's."""
    largest, winner = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil)
    least = largest - TIE_SHARE * largest.abs().amax()
    sides, gaps, pads = (_pair(value) for value in (kernel, dilation, padding))
    steps, outputs = _pair(stride) if len(stride) else sides, largest.shape[2:]
    spans = [(count - 1) * step + 1 for count, step in zip(outputs, steps, strict=True)]
    ends = [max(0, spans[at] + (sides[at] - 1) * gaps[at] - x.shape[2 + at] - pads[at]) for at in (0, 1)]
    is_inside = not any((*pads, *ends))
    framed = x if is_inside else F.pad(x, (pads[1], ends[1], pads[0], ends[0]), value=-torch.inf)
    rows, columns = (torch.arange(count, device=x.device) for count in outputs)
    starts = rows[:, None] * (steps[0] * x.shape[3]) + columns * steps[1]
    for place in reversed(range(sides[0] * sides[1])):
        row, column = place // sides[1] * gaps[0], place % sides[1] * gaps[1]
        values = framed[:, :, row : row + spans[0] : steps[0], column : column + spans[1] : steps[1]]
        index = starts + ((row - pads[0]) * x.shape[3] + column - pads[1])
        winner = torch.where(values >= least, index, winner)
    return largest, winner


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1])
