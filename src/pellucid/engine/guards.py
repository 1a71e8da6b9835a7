"""Guards against silent errors that the recorder cannot detect."""

import sys
import warnings
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import autocast_mode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.errors import UnsupportedOperation

__all__ = ["AutocastWatch", "TaintWatch", "check_autocast", "check_model", "check_skipped_padding", "unwrap"]


class TaintWatch(TorchDispatchMode):
    """Tracks everything computed from the image, at the level of the operators below a model's function calls.

    Tensors are identified by their memory. The output of a computation with tainted inputs is tainted. A comparison
    converted to numbers (a mask) is not, since it is constant almost everywhere.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, torch.UntypedStorage] = {}  # keeps storages alive, so that no address is reused
        self._clean: dict[int, Tensor] = {}
        self._taint(images)

    def knows(self, tensor: Tensor) -> bool:
        """True if a tensor is tainted."""
        try:
            storage = tensor.untyped_storage()
            return storage.data_ptr() in self._kept and storage.data_ptr() != 0
        except (RuntimeError, NotImplementedError):
            return True  # the wrapper tensor of a transform, such as vmap's, has no storage

    def _taint(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = storage

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # the watch's own calls must not reach the recorder
            return self._follow(func, args, kwargs or {})

    def _follow(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        sources = [tensor for tensor in _tensors((args, kwargs)) if self.knows(tensor)]
        uses_shape_only = getattr(func, "overloadpacket", None) in _SHAPE_ONLY
        if sources and not uses_shape_only and not _is_mask(sources):
            for tensor in _tensors(result):
                self._taint(tensor)
        return result


_aten = torch.ops.aten
_SHAPE_ONLY = {
    _aten.zeros_like,
    _aten.ones_like,
    _aten.full_like,
    _aten.empty_like,
    _aten.new_zeros,
    _aten.new_ones,
    _aten.new_full,
    _aten.new_empty,
    _aten.new_empty_strided,
}
"""Operators that use a tensor's shape but not its values."""


def _is_mask(sources: list[Tensor]) -> bool:
    return all(source.dtype == torch.bool for source in sources)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel or DistributedDataParallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def check_model(model: nn.Module) -> None:
    """Raise `UnsupportedOperation` for scripted models, whose operations are invisible to the recorder."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedOperation(
                f"{f'module {name!r}' if name else 'the model'} is a ScriptModule, which cannot be recorded; "
                "explain the unscripted model, or choose a gradient method."
            )


def check_autocast(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Raise `UnsupportedOperation` if the model has enabled `torch.autocast` for the tensors of this call.

    Call it for every function call of an isolated forward pass, where the caller's own autocast is off. Autocast for a
    device that holds none of the tensors has no effect and is allowed.
    """
    # `torch.amp.custom_fwd(cast_inputs=…)` disables autocast before it casts, so the cast itself is the only trace
    is_custom = func is Tensor.to and _is_cast_by_custom_forward()
    if not (is_custom or torch._C._is_any_autocast_enabled()):
        return
    for tensor in _tensors((args, kwargs)):
        device = tensor.device.type
        if is_custom or (device in _autocast_devices and torch.is_autocast_enabled(device)):
            raise UnsupportedOperation(
                f"{_place_in_model()} runs under torch.autocast({device!r}), whose low precision causes errors of tens "
                "of percent in maps and derivatives. Explain the model in its own precision: remove the autocast from "
                f"its forward pass, or nest torch.autocast({device!r}, enabled=False) in it."
            )


class AutocastWatch(TorchFunctionMode):
    """Calls `check_autocast` at every function call; for forward passes that run under no other function mode."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_autocast(func, args, kwargs)
        return func(*args, **(kwargs or {}))


_autocast_devices = frozenset(torch._C._autocast_supported_devices())
_CUSTOM_CAST: CodeType | None = getattr(getattr(autocast_mode, "_cast", None), "__code__", None)


def _is_cast_by_custom_forward() -> bool:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(16):  # the frame of the cast is close: only the function mode and its wrappers are in between
        if frame is None or frame.f_code is _CUSTOM_CAST:
            break
        frame = frame.f_back
    return frame is not None and frame.f_code is _CUSTOM_CAST


def _place_in_model() -> str:
    """Describe the innermost running module by its path in the outermost one."""
    frame: FrameType | None = sys._getframe(1)
    modules: list[nn.Module] = []
    while frame is not None:
        owner = frame.f_locals.get("self")
        is_own = frame.f_globals.get("__name__", "").startswith("pellucid.")
        if isinstance(owner, nn.Module) and not is_own:
            modules.append(owner)
        elif is_own and modules:
            break  # pellucid called the model here; outer frames are the caller's code, possibly inside a module too
        frame = frame.f_back
    if not modules:
        return "the model"
    path = next((name for name, module in modules[-1].named_modules() if module is modules[0]), "")
    return f"module {path!r} ({type(modules[0]).__name__})" if path else f"the model ({type(modules[0]).__name__})"


def check_skipped_padding(model: nn.Module, x: Tensor, logits_of: Callable[[Any], Tensor], logits: Tensor) -> None:
    """Raise `UnsupportedOperation` if the model's logits differ between running with and without gradients.

    When gradients are disabled, torch's TransformerEncoder skips padded tokens and returns zeros at their positions. A
    model that reads those positions then computes different logits.
    """
    if not any(isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor for part in model.modules()):
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that nested tensors are a prototype
        plain = logits_of(model(x.clone()))
    gap = float((plain - logits).abs().max())
    if not gap <= 1e-3 * max(float(logits.abs().max()), 1e-12):
        raise UnsupportedOperation(
            f"the model's logits differ by {gap:.3g} between running with and without gradients: without them, its "
            "nn.TransformerEncoder returns zeros at the positions of padded tokens, which the model then uses. Build "
            "the encoder with enable_nested_tensor=False, or set its use_nested_tensor to False."
        )
