"""Errors raised inside a model's forward pass because its input does not fit, explained in terms of that input."""

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pellucid.core.errors import ShapeError
from pellucid.core.isolation import raise_translated
from pellucid.engine.wrapping import module_paths

__all__ = ["INPUT_ERRORS", "raise_input_error"]

INPUT_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""Types of errors that torch and models raise for inputs that do not fit."""

_ABOUT_INPUTS = re.compile(
    r"\b(shapes?|sizes?|dim(ension)?s?|channels?|elements?|unpack|axis|axes|lengths?|ndim|numel|[1-5]-?D|divisible"
    r"|dtype|scalar type|data ?type|should be the same|same device|out of (range|bounds)|must (be|match)"
    r"|invalid (combination|argument)|not subscriptable|unsupported operand|unexpected keyword|positional arguments?"
    r"|meta (tensors?|device))\b",
    re.IGNORECASE,
)
"""Words of torch's (and most models') messages about shapes, dtypes, devices and arguments."""


def raise_input_error(error: Exception, model: Any, received: str, x: Tensor | None = None) -> NoReturn:
    """Raise a `ShapeError` if the model's forward pass raised `error` because of its input; `error` itself otherwise.

    `received` describes the input, and `x` is that input if there is a single one. Exceptions of the user's own types,
    and those whose message is not about shapes, dtypes, devices or arguments, are raised unchanged.
    """
    raise_translated(error)  # such as the guards of an exported program, which have their own advice
    if not _is_from_a_library(error):
        raise error
    misfit = _misfit(error.__traceback__, model)
    if not (misfit or isinstance(error, AssertionError) or _ABOUT_INPUTS.search(str(error))):
        raise error
    reason = f"{misfit}." if misfit else f"{type(error).__name__}: {_first_line(error)}"
    raise ShapeError(f"the model fails on inputs of shape {received}: {reason}{_advice(model, x)}") from error


def _is_from_a_library(error: Exception) -> bool:
    kind = type(error)
    return kind in INPUT_ERRORS or (kind.__module__.partition(".")[0] in _LIBRARIES and kind not in _OTHER_REASONS)


_LIBRARIES = ("einops", "numpy", "torchvision", "timm", "transformers")
_OTHER_REASONS = (torch.OutOfMemoryError, NotImplementedError)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{text.splitlines()[0].rstrip('.')}." if text else "(no message)."


def _misfit(traceback: TracebackType | None, model: Any) -> str:
    """Describe the innermost layer in the traceback whose input has the wrong size; empty without one."""
    found = ""
    while traceback is not None:
        scope = traceback.tb_frame.f_locals
        layer, x = scope.get("self"), scope.get("input", scope.get("x"))
        if isinstance(layer, nn.Module) and isinstance(x, Tensor):
            expected = _expected(layer)
            if expected is not None and not expected[1](x):
                name = _name_of(layer, model)
                found = (
                    f"{type(layer).__name__}{f' {name!r}' if name else ''} expects {expected[0]} and received "
                    f"{tuple(x.shape)}"
                )
        traceback = traceback.tb_next
    return found


def _name_of(layer: nn.Module, model: Any) -> str:
    if not isinstance(model, nn.Module):
        return ""
    return next((name for name, module in module_paths(model) if module is layer), "")


def _expected(layer: nn.Module) -> tuple[str, Callable[[Tensor], bool]] | None:
    """Describe the input of one of torch's layers, with a test for it; None for other layers."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        rank, channels = len(layer.kernel_size) + 2, layer.in_channels
        # without a batch axis, the channels come first
        return (
            f"(batch, {_counted(channels, 'channel')}, {', '.join(_AXES[-(rank - 2) :])})",
            lambda x: x.ndim in (rank, rank - 1) and x.shape[1 - rank] == channels,
        )
    if isinstance(layer, nn.Linear):
        features = layer.in_features
        return f"{_counted(features, 'feature')} along the last axis", lambda x: x.shape[-1:] == (features,)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        count = layer.num_features
        return f"{_counted(count, 'channel')} along axis 1", lambda x: x.ndim > 1 and x.shape[1] == count
    if isinstance(layer, nn.LayerNorm):
        shape = tuple(layer.normalized_shape)
        return f"{shape} along the last axes", lambda x: tuple(x.shape[-len(shape) :]) == shape
    if isinstance(layer, nn.RNNBase):
        size = layer.input_size
        return f"{_counted(size, 'feature')} along the last axis", lambda x: x.shape[-1:] == (size,)
    return None


_AXES = ("depth", "height", "width")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _advice(model: Any, x: Tensor | None) -> str:
    """Advice on the dtype, device or batch axis of a single input."""
    if x is None or not isinstance(model, nn.Module):
        return ""
    first = next((layer for layer in model.modules() if _expected(layer) is not None), None)
    parameter = next(model.parameters(), torch.empty(0, dtype=x.dtype, device=x.device))
    if isinstance(first, nn.modules.conv._ConvNd) and x.ndim == len(first.kernel_size) + 1:
        return " The batch axis seems to be missing. Add a batch dimension: x[None]."
    if parameter.device != x.device:
        return f" The input is on {x.device} and the model on {parameter.device}; move one of them."
    if x.is_floating_point() and parameter.is_floating_point() and x.dtype != parameter.dtype:
        return f" The input is {x.dtype} and the model {parameter.dtype}; pass inputs of the model's dtype."
    return ""
