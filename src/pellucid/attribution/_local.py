"""Incremental forward passes for images in which one window has changed: only affected regions are recomputed.

A first pass stores the output of every function. Later passes track the region of each feature map that has changed;
convolutions, max-pooling and elementwise functions are computed on that region and its surroundings only, everything
else in full. Supports batches of images with two spatial axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pellucid.attribution._subject import Subject
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.table import substitute, tensors_in

__all__ = ["LocalPasses"]

Span = tuple[int, int]
WHOLE = 0.7
"""Above this fraction of a feature map, a changed region is not worth tracking and the map is recomputed in full."""


class LocalPasses:
    """Incremental forward passes over the same images."""

    def __init__(self, subject: Subject, images: Tensor) -> None:
        self._subject, self._images = subject, images
        self._first = _First()
        self.share = 1.0
        """Arithmetic of the last pass, as a fraction of a full pass."""
        with torch.no_grad():
            self.base = subject.logits(images, within=self._first)

    @property
    def is_possible(self) -> bool:
        """True if the images have two spatial axes and no stored output was modified in place."""
        # `_version` is autograd's counter of in-place modifications.
        return self._images.ndim == 4 and all(value._version == version for value, version in self._first.versions)

    def logits(self, window: Sequence[slice], content: Tensor) -> Tensor | None:
        """Compute the logits, (batch, class), with `content` in the window (channels, rows, columns).

        Returns None if the model's control flow differs from the first pass.
        """
        rows, columns = ((place.start, place.stop) for place in window[1:])
        patch = self._images[:, :, slice(*rows), slice(*columns)].clone()
        patch[:, window[0]] = content
        later = _Later(self._first, _Change(self._images, rows, columns, patch))
        try:
            with torch.no_grad():
                logits = self._subject.logits(self._images, within=later)
        except _ControlFlowChanged:
            return None
        self.share = later.work / self._first.work
        return later.full(logits)


class _ControlFlowChanged(Exception):
    """The model does not call the same functions as in the first pass."""


@dataclass(eq=False)
class _Change:
    """A tensor of the first pass in which a rectangular region has changed."""

    base: Tensor
    rows: Span
    columns: Span
    patch: Tensor

    def crop(self, rows: Span, columns: Span, fill: float) -> Tensor:
        """Crop the changed tensor; positions beyond its border are `fill`."""
        spans, sides = (rows, columns), self.base.shape[2:]
        inner = [(max(0, a), min(side, b)) for (a, b), side in zip(spans, sides, strict=True)]
        part = self.base[:, :, slice(*inner[0]), slice(*inner[1])].clone()
        both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(inner, (self.rows, self.columns), strict=True)]
        if all(a < b for a, b in both):
            there, here = (
                tuple(slice(a - origin[0], b - origin[0]) for (a, b), origin in zip(both, origins, strict=True))
                for origins in (inner, (self.rows, self.columns))
            )
            part[:, :, *there] = self.patch[:, :, *here]
        beyond = [(i - a, b - j) for (a, b), (i, j) in zip(spans, inner, strict=True)]
        return F.pad(part, (*beyond[1], *beyond[0]), value=fill) if any(map(any, beyond)) else part


class _First(TorchFunctionMode):
    """Store the output of each function; in-place functions run out of place, which keeps earlier outputs intact."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any]] = []
        self.versions: list[tuple[Tensor, int]] = []
        self.work = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func, kwargs = _out_of_place(func, kwargs or {})
        value = func(*args, **kwargs)
        self.calls.append((func, value))
        for tensor in tensors_in(value):
            self.versions.append((tensor, tensor._version))
            self.work += _work(func, args, tensor)
        return value


class _Later(TorchFunctionMode):
    """Return the outputs of the first pass, while tracking which of their regions have changed."""

    def __init__(self, first: _First, change: _Change) -> None:
        super().__init__()
        self.work = 0
        self._first, self._count = first, 0
        self._changes = {id(change.base): change}
        self._full: dict[
            int, Tensor
        ] = {}  # tensors recomputed in full, by id; holding them keeps ids from being reused

    def full(self, value: Tensor) -> Tensor:
        """Return the current value of a tensor, with its changed region filled in."""
        change = self._changes.get(id(value))
        if change is None:
            return value
        sides = value.shape[2:]
        return change.crop((0, sides[0]), (0, sides[1]), 0.0)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func, kwargs = _out_of_place(func, kwargs or {})
        if self._count >= len(self._first.calls) or self._first.calls[self._count][0] != func:
            raise _ControlFlowChanged
        base = self._first.calls[self._count][1]
        self._count += 1
        touched = [tensor for tensor in tensors_in((args, kwargs)) if self._is_touched(tensor)]
        is_tensor = next(tensors_in(base), None) is not None
        if not touched or (OPERATIONS.traits(func).reads_metadata and not is_tensor):
            return base
        if all(id(tensor) in self._changes for tensor in touched) and isinstance(base, Tensor):
            changes = [self._changes[id(tensor)] for tensor in touched]
            change = _propagated(func, args, kwargs, changes, base)
            if change is not None:
                self._changes[id(base)] = change
                self.work += _work(func, args, change.patch)
                return base
        value = func(*substitute(args, self.full), **substitute(kwargs, self.full))
        if not is_tensor and value != base:
            raise _ControlFlowChanged  # a Python number, such as from .item(), that control flow may depend on
        for tensor in tensors_in(value):
            self._full[id(tensor)] = tensor
            self.work += _work(func, args, tensor)
        return value

    def _is_touched(self, tensor: Tensor) -> bool:
        return id(tensor) in self._changes or id(tensor) in self._full


def _out_of_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    entry = OPERATIONS.find(func)
    if entry is not None and entry.in_place and entry.function is not None:
        func = entry.function
    return func, {key: value for key, value in kwargs.items() if key != "inplace"}


def _work(func: Callable[..., Any], args: Sequence[Any], value: Tensor) -> int:
    """Approximate number of multiplications in computing a tensor."""
    is_kernel = OPERATIONS.traits(func).family == "kernel" and len(args) > 1
    is_product = is_kernel and isinstance(args[1], Tensor) and args[1].ndim > 1 and len(args[1]) > 0
    return value.numel() * (args[1][0].numel() if is_product else 1)


def _propagated(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], changes: Sequence[_Change], base: Tensor
) -> _Change | None:
    """Return the changed region of a function's output; None if it must be recomputed in full."""
    entry, change = OPERATIONS.find(func), changes[0]
    if entry is None or base.ndim != 4 or not args:
        return None
    if entry.name == "add" and len(args) == 2 and not kwargs:
        return _added(args, changes, base)
    if args[0] is not change.base or len(changes) != 1:
        return None
    others = [tensor for tensor in tensors_in((args[1:], kwargs)) if tensor.ndim]
    if entry.name in ("conv2d", "max_pool2d"):
        windows = (_convolved if entry.name == "conv2d" else _pooled)(*args[1:], **kwargs)
        return None if windows is None else _windowed(windows, change, base)
    # In eval mode, a batch norm is elementwise; batch statistics would depend on the whole map.
    is_each = (entry.traits.is_elementwise and not others) or entry.name == "batch_norm"
    if not is_each or (entry.name == "batch_norm" and (kwargs.get("training") or any(args[5:6]))):
        return None
    return _Change(base, change.rows, change.columns, func(change.patch, *args[1:], **kwargs))


def _added(args: Sequence[Any], changes: Sequence[_Change], base: Tensor) -> _Change | None:
    """Return the changed region of a sum of two maps of the same shape: the union of both regions."""
    if not all(isinstance(term, Tensor) and term.shape == base.shape for term in args):
        return None
    own = {id(change.base): change for change in changes}
    rows, columns = (
        (min(span[0] for span in spans), max(span[1] for span in spans))
        for spans in ([change.rows for change in changes], [change.columns for change in changes])
    )
    parts = [
        own[id(term)].crop(rows, columns, 0.0) if id(term) in own else term[:, :, slice(*rows), slice(*columns)]
        for term in args
    ]
    return _Change(base, rows, columns, parts[0] + parts[1])


@dataclass(frozen=True)
class _Windows:
    """Geometry of a sliding-window function, and the function itself without padding."""

    kernel: Span
    stride: Span
    padding: Span
    dilation: Span
    fill: float
    compute: Callable[[Tensor], Tensor]


def _convolved(
    weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> _Windows | None:
    if isinstance(padding, str):
        return None
    kernel, step, steps = (weight.shape[2], weight.shape[3]), _pair(stride), _pair(dilation)

    def compute(part: Tensor) -> Tensor:
        return F.conv2d(part, weight, bias, step, 0, steps, groups)

    return _Windows(kernel, step, _pair(padding), steps, 0.0, compute)


def _pooled(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Windows | None:
    if ceil_mode or return_indices:  # windows beyond the border, and indices into the whole map
        return None
    kernel, steps = _pair(kernel_size), _pair(dilation)
    step = kernel if stride is None or stride == [] else _pair(stride)  # torch passes [] for the default

    def compute(part: Tensor) -> Tensor:
        return F.max_pool2d(part, kernel, step, 0, steps)

    return _Windows(kernel, step, _pair(padding), steps, -torch.inf, compute)  # −∞: padding never wins


def _pair(size: Any) -> Span:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _windowed(windows: _Windows, change: _Change, base: Tensor) -> _Change | None:
    """Recompute the outputs whose window overlaps the change; None if there are none or too many."""
    touched, needed = [], []
    for axis, span in enumerate((change.rows, change.columns)):
        stride, padding = windows.stride[axis], windows.padding[axis]
        reach = windows.dilation[axis] * (windows.kernel[axis] - 1)
        # Output i reads the inputs i · stride − padding + (0 … reach); -(-a // b) divides and rounds up.
        first = max(0, -(-(span[0] + padding - reach) // stride))
        last = min(base.shape[2 + axis] - 1, (span[1] - 1 + padding) // stride)
        touched.append((first, last + 1))
        needed.append((first * stride - padding, last * stride - padding + reach + 1))
    area = (touched[0][1] - touched[0][0]) * (touched[1][1] - touched[1][0])
    if min(b - a for a, b in touched) < 1 or area > WHOLE * base[0, 0].numel():
        return None
    part = change.crop(needed[0], needed[1], windows.fill)
    return _Change(base, touched[0], touched[1], windows.compute(part))
