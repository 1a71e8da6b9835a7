"""Guards against silent errors that the recorder alone cannot see."""

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
    """Follows everything computed from the image, below the functions that a model calls.

    Tensors are known by their memory. What comes out of a tainted computation is tainted; comparing and then turning
    the answer into numbers (a mask) is not, since it is constant almost everywhere.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice
        self._clean: dict[int, Tensor] = {}
        self._taint(images)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is tainted."""
        try:
            storage = tensor.untyped_storage()
            return storage.data_ptr() in self._kept and storage.data_ptr() != 0
        except (RuntimeError, NotImplementedError):
            return True  # a wrapper of a transform, such as vmap's

    def _taint(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = storage

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # a recorder must not see what the watch itself asks
            return self._follow(func, args, kwargs or {})

    def _follow(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        sources = [tensor for tensor in _tensors((args, kwargs)) if self.knows(tensor)]
        is_new = getattr(func, "overloadpacket", None) in _SHAPE_ALONE
        if sources and not is_new and not _is_mask(sources):
            for tensor in _tensors(result):
                self._taint(tensor)
        return result


_aten = torch.ops.aten
_SHAPE_ALONE = {
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
"""What uses the shape of a tensor and not its values."""


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
    """The model inside DataParallel or DistributedDataParallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def check_model(model: nn.Module) -> None:
    """Raise `UnsupportedOperation` for models whose operations cannot be seen: scripted ones."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedOperation(
                f"{f'module {name!r}' if name else 'the model'} is a ScriptModule, which cannot be followed; "
                "explain the model before it was scripted, or choose a gradient method."
            )


def check_autocast(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Raise `UnsupportedOperation` where the model has switched on `torch.autocast` for the tensors of this call.

    To be asked at every function call of a forward pass that runs isolated: the caller's own autocast is off there.
    Autocast for a device that none of the tensors is on changes nothing, and is let be.
    """
    # `torch.amp.custom_fwd(cast_inputs=…)` switches autocast off before it casts, so its cast is all there is to see
    is_custom = func is Tensor.to and _is_cast_by_custom_forward()
    if not (is_custom or torch._C._is_any_autocast_enabled()):
        return
    for tensor in _tensors((args, kwargs)):
        device = tensor.device.type
        if is_custom or (device in _autocast_devices and torch.is_autocast_enabled(device)):
            raise UnsupportedOperation(
                f"{_place_in_model()} runs under torch.autocast({device!r}), whose low precision puts maps and "
                "derivatives off by tens of percent. Explain the model in its own precision: remove the autocast from "
                f"its forward pass, or nest torch.autocast({device!r}, enabled=False) in it."
            )


class AutocastWatch(TorchFunctionMode):
    """Asks `check_autocast` at every function call, for passes that nothing else watches."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_autocast(func, args, kwargs)
        return func(*args, **(kwargs or {}))


_autocast_devices = frozenset(torch._C._autocast_supported_devices())
_CUSTOM_CAST: CodeType | None = getattr(getattr(autocast_mode, "_cast", None), "__code__", None)


def _is_cast_by_custom_forward() -> bool:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(16):  # the cast's frame is near: only the mode and what wraps it lie between
        if frame is None or frame.f_code is _CUSTOM_CAST:
            break
        frame = frame.f_back
    return frame is not None and frame.f_code is _CUSTOM_CAST


def _place_in_model() -> str:
    """The innermost module that is running, by its path in the outermost one."""
    frame: FrameType | None = sys._getframe(1)
    modules: list[nn.Module] = []
    while frame is not None:
        owner = frame.f_locals.get("self")
        is_own = frame.f_globals.get("__name__", "").startswith("pellucid.")
        if isinstance(owner, nn.Module) and not is_own:
            modules.append(owner)
        elif is_own and modules:
            break  # pellucid called the model here; beyond is the user's code, which may belong to a module too
        frame = frame.f_back
    if not modules:
        return "the model"
    path = next((name for name, module in modules[-1].named_modules() if module is modules[0]), "")
    return f"module {path!r} ({type(modules[0]).__name__})" if path else f"the model ({type(modules[0]).__name__})"


def check_skipped_padding(model: nn.Module, x: Tensor, logits_of: Callable[[Any], Tensor], logits: Tensor) -> None:
    """Raise `UnsupportedOperation` where the model has other logits without gradients than with them.

    torch's TransformerEncoder leaves out padded tokens when nobody asks for gradients, and hands back zeros in their
    places; a model that looks at those places then computes something else.
    """
    if not any(isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor for part in model.modules()):
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype, says torch
        plain = logits_of(model(x.clone()))
    gap = float((plain - logits).abs().max())
    if not gap <= 1e-3 * max(float(logits.abs().max()), 1e-12):
        raise UnsupportedOperation(
            f"the model has other logits without gradients than with them (by {gap:.3g}): its nn.TransformerEncoder "
            "leaves zeros in the places of padded tokens, which the model then uses; build it with "
            "enable_nested_tensor=False, or set its use_nested_tensor to False."
        )
