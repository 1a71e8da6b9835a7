"""Faster kernels for convolutions that are slow on the CPU, swapped in below autograd so the model stays unchanged."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["KernelSwap", "fast_size", "way_of"]

FOURIER_SIDE = 15
"""Depthwise kernels of at least this size on both sides use an FFT in the backward pass."""
SMALL_BATCH = 4
"""Batches below this size are too small for the folded kernel to pay off, unless the convolution kernel is large."""
FOLDED_SIDE = 5
"""Convolution kernels of at least this size on both sides use the folded kernel for any batch size."""

UNFOLDABLE = ("attention", "rnn", "gru", "lstm")
"""Parts of the names of operations whose backward pass has no batching rule."""


class KernelSwap(TorchDispatchMode):
    r"""Replaces convolutions by faster exact equivalents, forward and backward, and records sizes while planning.

    - *Depthwise with a channel multiplier above 1*: each channel is repeated, which reduces the multiplier to 1.
    - *Large depthwise kernels*: backward by FFT, \(\partial x = F^{-1}(F(g) F(w))\). Never forward, where rounding
      would break the ties of a max-pool on flat background.
    - *A single input channel*: \(\partial x = \text{fold}(W^T g)\).

    Applies only on the CPU and to gradients with respect to the input; everything else passes through.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, for seconds, only to keep it away from this class

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_planning = False
        """True to record the sizes and names of operations."""
        self.largest = 0
        """Size in bytes of the largest tensor that an operation returned, not counting views."""
        self.swapped: set[str] = set()
        """Kinds of convolution replaced in the forward pass, or to be replaced in the backward pass."""
        self.swapped_in_batches: set[str] = set()
        """Kinds replaced only for batches of at least `SMALL_BATCH` images."""
        self.depthwise_area = 0
        """Size of the largest kernel of a depthwise convolution, in pixels."""
        self.operations: set[str] = set()
        """Names of all operations of the forward pass."""
        self._spectra: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    @property
    def is_foldable(self) -> bool:
        """True if every operation can batch cotangents along an extra axis."""
        return not any(word in name for name in self.operations for word in UNFOLDABLE)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            result: Any = self._forward(*args)
        # only if just the input gradient is requested: the output mask is (input, weight, bias)
        elif func is torch.ops.aten.convolution_backward.default and args[-1][0] and not any(args[-1][1:]):
            result = self._backward(args)
        else:
            result = func(*args, **kwargs) if kwargs else func(*args)
        if self.is_planning:
            self.operations.add(func.overloadpacket.__name__)
            if isinstance(result, Tensor) and not getattr(func, "is_view", False):
                self.largest = max(self.largest, result.numel() * result.element_size())
        return result

    def _forward(self, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        kernel = way_of(x, weight, rest[1:])
        if kernel is not None and (kernel != "one_channel" or min(weight.shape[2:]) >= FOLDED_SIDE):
            self.swapped.add(kernel)
        elif kernel is not None:
            self.swapped_in_batches.add(kernel)
        if x.ndim == 4 and rest[-1] == x.shape[1] > 1:
            self.depthwise_area = max(self.depthwise_area, weight.shape[2:].numel())
        multiplier = len(weight) // x.shape[1] if x.ndim == 4 else 1
        if kernel in ("fourier", "multiplier") and multiplier > 1 and x.shape[1] > 1:
            # the last argument is the number of groups: now one per output channel
            return torch.ops.aten.convolution(x.repeat_interleave(multiplier, 1), weight, *rest[:-1], len(weight))
        return torch.ops.aten.convolution(x, weight, *rest)

    def _backward(self, args: Any) -> tuple[Tensor, None, None]:
        gradient, x, weight, _, *rest = args
        kernel = way_of(x, weight, rest[:-1])
        if kernel == "fourier":
            return self._by_fourier(gradient, x, weight, rest[1]), None, None
        if kernel == "multiplier":
            return _by_repetition(gradient, x, weight, rest), None, None
        if kernel == "one_channel" and (len(x) >= SMALL_BATCH or min(weight.shape[2:]) >= FOLDED_SIDE):
            return _by_folding(gradient, x, weight, rest), None, None
        result: tuple[Tensor, None, None] = torch.ops.aten.convolution_backward(*args)
        return result

    def _by_fourier(self, gradient: Tensor, x: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
        """Input gradient of a depthwise convolution by FFT, with the weights' spectra cached across passes."""
        # at the padded size, the circular convolution of an FFT does not wrap around
        full = [size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True)]
        sides = [fast_size(size) for size in full]
        key = (weight.data_ptr(), *sides)
        if key not in self._spectra:
            spectrum = torch.fft.rfft2(weight[:, 0], sides)
            self._spectra[key] = (weight, spectrum)  # keeping the weight alive stops its address from being reused
        # no conjugate: the transpose of a cross-correlation is a convolution
        spectrum = torch.fft.rfft2(gradient, sides).mul_(self._spectra[key][1])
        if x.shape[1] < gradient.shape[1]:
            # sum over the channel multiplier before the inverse FFT, which saves transforms
            spectrum = spectrum.unflatten(1, (x.shape[1], -1)).sum(2)
        image = torch.fft.irfft2(spectrum, sides)
        rows, columns = (slice(pad, pad + size) for size, pad in zip(x.shape[2:], padding, strict=True))
        return image[:, :, rows, columns]


def way_of(x: Tensor, weight: Tensor, settings: Any) -> str | None:
    """Return the kind of faster kernel for a convolution, or None to use torch's; decided from shapes alone.

    `settings` are the arguments of `aten.convolution` from `stride` on.
    """
    stride, _, dilation, is_transposed, _, groups = settings
    if x.ndim != 4 or is_transposed or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return None
    channels, area = x.shape[1], weight.shape[2] * weight.shape[3]
    is_plain = set(stride) == {1} and set(dilation) == {1}
    if groups == channels and is_plain and min(weight.shape[2:]) >= FOURIER_SIDE and weight.shape[2:] <= x.shape[2:]:
        return "fourier"
    if groups == channels > 1 and len(weight) > channels and is_plain:
        return "multiplier"
    if groups == channels == 1 and area <= 3 * len(weight):
        return "one_channel"
    return None


def _by_repetition(gradient: Tensor, x: Tensor, weight: Tensor, rest: list[Any]) -> Tensor:
    """Input gradient of a depthwise convolution with each channel repeated, summed over the repetitions."""
    stride, padding, dilation, _, output_padding, _, _ = rest
    repeated = x.new_empty((len(x), len(weight), *x.shape[2:]))  # only its shape enters the gradient
    settings = (stride, padding, dilation, False, output_padding, len(weight), [True, False, False])
    separate, _, _ = torch.ops.aten.convolution_backward(gradient, repeated, weight, None, *settings)
    return separate.unflatten(1, (x.shape[1], -1)).sum(2)


def _by_folding(gradient: Tensor, x: Tensor, weight: Tensor, rest: list[Any]) -> Tensor:
    """Input gradient as one matrix product followed by `fold` (col2im)."""
    stride, padding, dilation = rest[:3]
    columns = weight.flatten(1).T @ gradient.flatten(2)
    return F.fold(columns, x.shape[2:], weight.shape[2:], dilation, padding, stride)


def fast_size(size: int) -> int:
    """Return the smallest even number of at least `size` with no prime factor above 5, for which FFTs are fast.

    >>> fast_size(275), fast_size(147)
    (288, 150)
    """
    size += size % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
