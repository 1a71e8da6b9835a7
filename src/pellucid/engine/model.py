"""Run a model: freeze it, choose its logits and the images per pass, and refuse models whose result would be wrong."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import autocast_mode
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.core.isolation import exclusive, preserved_random_state
from pellucid.engine.outputs import Chooser
from pellucid.engine.table import tensors_in
from pellucid.engine.units import Channels
from pellucid.engine.wrapping import Network, check_model, set_eval, unwrap

__all__ = [
    "LARGEST_TENSOR_BYTES",
    "SOFTMAX_AT_THE_END",
    "AutocastWatch",
    "Chooser",
    "Network",
    "Readout",
    "check_autocast",
    "check_logits",
    "check_model",
    "check_skipped_padding",
    "device_of",
    "dtype_of",
    "frozen",
    "images_per_chunk",
    "keep_freed_memory",
    "largest_tensor_bytes",
    "modules_of",
    "runs_torch_alone",
    "unwrap",
]


@contextmanager
def frozen(
    model: nn.Module,
    *,
    draws: Literal["all", "torch", "nothing"] = "all",
    modules: Sequence[nn.Module] | None = None,
) -> Iterator[nn.Module]:
    """Put the model in eval mode without parameter gradients; restore its exact state on exit, also after an exception.

    Restores the mode of every submodule, `requires_grad` and `.grad` of every parameter, every buffer (a forward pass
    may update one, such as a counter or running mean), and the global random states. Weights and buffers created in
    inference mode, for which torch computes no derivatives, are replaced by copies in the meantime. Holds the lock of
    `pellucid.core.isolation` throughout, so that no other thread sees the frozen model.

    Two arguments save time: `draws` states what may draw random numbers in the body, "torch" for nothing but the model
    itself, which draws only from torch's state if it consists of torch's own layers; and `modules` is the result of
    `modules_of(model)`.

    >>> layer = torch.nn.Dropout(0.5)
    >>> with frozen(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    with exclusive():
        modules = modules_of(model) if modules is None else modules
        loaned: list[tuple[nn.Module, str, Tensor]] = []
        modes, parameters, buffers = _remember(modules)
        tensors = [parameter for parameter, _, _ in parameters] + [buffer for _, _, buffer, _ in buffers]
        if any(map(Tensor.is_inference, tensors)):
            loaned = _usable(modules)
            modes, parameters, buffers = _remember(modules)
        random_state: AbstractContextManager[object] = nullcontext()
        if draws != "nothing":
            random_state = preserved_random_state(torch_alone=draws == "torch" and runs_torch_alone(modules))
        try:
            with random_state, _unoptimized(modules):
                if any(training for _, training in modes):  # model.eval() alone can cost more than a small forward pass
                    set_eval(model)
                for parameter, requires_grad, _ in parameters:
                    if requires_grad:
                        parameter.requires_grad_(False)
                yield model
        finally:
            for module, training in modes:
                # set module by module: `train()` would also set all submodules, whose modes may differ
                if getattr(module, "training", training) is not training:
                    module.training = training
            for parameter, requires_grad, grad in parameters:
                if parameter.requires_grad is not requires_grad:
                    parameter.requires_grad_(requires_grad)
                if parameter.grad is not grad:
                    parameter.grad = grad
            _restore_buffers(buffers)
            for module, name, tensor in loaned:
                setattr(module, name, tensor)


def modules_of(model: nn.Module) -> list[nn.Module]:
    """List a model and all its submodules, each once, in the order of `model.modules()` but faster.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> modules_of(model) == list(model.modules())
    True
    """
    found: dict[nn.Module, None] = {}
    _collect(model, found)
    return list(found)


def _collect(module: nn.Module, found: dict[nn.Module, None]) -> None:
    found[module] = None
    for child in module._modules.values():
        if child is not None and child not in found:
            _collect(child, found)


def _unoptimized(modules: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """Turn TorchScript's optimizer off if there are scripted modules: it fails under modes that watch operators."""
    scripted = torch.jit.ScriptModule
    for module in modules:
        if isinstance(module, scripted):
            switch: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]  # public, but not exported by name
            return switch(False)
    return nullcontext()


def _usable(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Replace weights and buffers created in inference mode by ordinary copies; return what to put back where."""
    loaned: list[tuple[nn.Module, str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for module in modules:
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and tensor.is_inference():
                    loaned.append((module, name, tensor))
    for module, name, tensor in loaned:
        if id(tensor) not in copies:  # tied weights stay tied
            copy = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
        setattr(module, name, copies[id(tensor)])  # not into the store: an RNN keeps a second list of its weights
    return loaned


Modes = list[tuple[nn.Module, bool]]
Parameters = list[tuple[nn.Parameter, bool, Tensor | None]]
Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


def _remember(modules: Iterable[nn.Module]) -> tuple[Modes, Parameters, Buffers]:
    """Collect all state to restore."""
    modes: Modes = []
    parameters: Parameters = []
    buffers: Buffers = []
    for module in modules:
        modes.append((module, getattr(module, "training", False)))  # torch.jit.freeze removes the attribute
        for parameter in module._parameters.values():
            if parameter is not None:
                parameters.append((parameter, parameter.requires_grad, parameter.grad))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                buffers.append((module, name, buffer, buffer.detach().clone()))
    return modes, parameters, buffers


_LAYERS = {
    f"torch.nn.modules.{name}"
    for name in (
        *("activation", "batchnorm", "container", "conv", "dropout", "flatten", "instancenorm", "linear"),
        *("normalization", "padding", "pixelshuffle", "pooling", "rnn", "sparse", "upsampling"),
    )
}
"""Modules that define torch's layers, except those that call user-defined functions."""


def runs_torch_alone(modules: Iterable[nn.Module]) -> bool:
    """True if modules run only torch's code (no hooks, no replaced `forward`), which draws only from torch's state.

    >>> runs_torch_alone(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).modules())
    True
    """
    if _has_any_global_hook():
        return False
    for module in modules:
        own = vars(module)
        # a `forward` among the instance's attributes replaces the one of its class
        if type(module).__module__ not in _LAYERS or "forward" in own:
            return False
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return False
    return True


def _restore_buffers(buffers: Buffers) -> None:
    for module, name, buffer, content in buffers:
        module._buffers[name] = buffer  # the model may have assigned another tensor
        # write only if needed: a write would invalidate an autograd graph that has saved the buffer
        if not torch.equal(buffer, content):
            with torch.no_grad():
                buffer.copy_(content)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has none.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    tensor = next((tensor for source in (model.parameters(), model.buffers()) for tensor in source), None)
    return torch.device("cpu") if tensor is None else tensor.device


def dtype_of(model: nn.Module, otherwise: torch.dtype = torch.float32) -> torch.dtype:
    """Return the dtype of the model's first floating parameter, or `otherwise` if it has none.

    >>> dtype_of(nn.Linear(2, 2).double()), dtype_of(nn.Flatten())
    (torch.float64, torch.float32)
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), otherwise)


@dataclass(frozen=True)
class Readout:
    """The explained part of a model's outputs."""

    output: Chooser = None
    unwrap_softmax: bool = False
    """Explain the logits before a final softmax; False: such a model is refused."""
    is_certified: bool = False
    """Keep an account of the relevance that biases, stabilizers and constants absorb."""
    layers: tuple[str, ...] = ()
    """Layers whose outputs are explained; empty for the input."""
    channels: Channels | None = None
    """Channels of the only layer through which relevance is also propagated to the input, one at a time."""


SOFTMAX_AT_THE_END = (
    "the model ends in a softmax; its outputs depend on one another and say little about the evidence for a class. "
    "Pass unwrap_softmax=True to explain the logits before it, or pass the model without the softmax."
)
"""The error message for a model that ends in a softmax."""


def check_logits(logits: Tensor, images: Tensor) -> None:
    """Raise `ShapeError` unless the outputs are one number, one row or one array per image."""
    if logits.ndim == 0 or len(logits) != len(images):
        raise ShapeError(
            f"the model returns shape {tuple(logits.shape)} for {len(images)} images; expected outputs for each image, "
            "(batch, class) or (batch, …). Select or reshape them with output=function."
        )


def refuse_softmax(*, behind: str = "") -> None:
    """Raise the error for a final softmax, or for one that is followed only by the operation `behind`."""
    if behind:
        raise UnsupportedOperation(
            f"the model ends in a softmax followed by {behind}, so the explanation would be of probabilities, which "
            "depend on one another; pass the model without these operations, or select the logits with output=…."
        )
    raise UnsupportedOperation(SOFTMAX_AT_THE_END)


LARGEST_TENSOR_BYTES = 30_000_000
"""Above about 32 MB, the allocator requests fresh pages from the system at every call, which costs more than the
arithmetic."""


def keep_freed_memory() -> None:
    """Make glibc's allocator keep freed memory for later tensors, by freeing one large block.

    glibc adapts its threshold to the largest block freed. Otherwise tensors of a few megabytes are returned to the
    system each time, and faulting in fresh pages takes a third of a forward pass. The process retains up to 32 MB more.
    """
    # Never written to, so it costs nothing. A storage, because with deterministic algorithms torch fills new tensors.
    torch.UntypedStorage(16_000_000, device="cpu")


def images_per_chunk(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """Return the number of images that keeps every tensor of `call(images)` below `LARGEST_TENSOR_BYTES`; at least 1.

    Runs the first image once and measures the largest tensor that any operation returns.

    >>> images_per_chunk(torch.nn.Flatten(), torch.zeros(64, 1, 1000, 1000))
    7
    """
    return max(1, LARGEST_TENSOR_BYTES // largest_tensor_bytes(call, images)) if len(images) > 1 else 1


def largest_tensor_bytes(call: Callable[[Tensor], Any], images: Tensor) -> int:
    """Return the size of the largest tensor in `call` on the first image, including the image itself."""
    with torch.no_grad(), _SizeWatch() as watch:
        call(images[:1].clone())  # a copy, because the model may work in place
    return max(watch.largest, images[:1].numel() * images.element_size(), 1)


class _SizeWatch(TorchDispatchMode):
    """Measures the largest tensor in bytes that an operation returns; ignores views, such as transposed weights."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, for seconds, only to keep it away from this class

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            for value in result if isinstance(result, tuple | list) else (result,):
                if isinstance(value, Tensor):
                    self.largest = max(self.largest, value.numel() * value.element_size())
        return result


def check_autocast(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Raise `UnsupportedOperation` if the model has enabled `torch.autocast` for the tensors of this call.

    Call it for every function call of an isolated forward pass, where the caller's own autocast is off. Autocast for a
    device that holds none of the tensors has no effect and is allowed.
    """
    # `torch.amp.custom_fwd(cast_inputs=…)` disables autocast before it casts, so the cast itself is the only trace
    is_custom = func is Tensor.to and _is_cast_by_custom_forward()
    if not (is_custom or torch._C._is_any_autocast_enabled()):
        return
    for tensor in tensors_in((args, kwargs)):
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
# private to torch: if a version lacks it, casts by `custom_fwd` go unnoticed
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


def check_skipped_padding(
    model: nn.Module, run: Callable[[nn.Module], Any], logits_of: Callable[[Any], Tensor], logits: Tensor
) -> None:
    """Raise `UnsupportedOperation` if the model's logits differ between running with and without gradients.

    When gradients are disabled, torch's TransformerEncoder skips padded tokens and returns zeros at their positions. A
    model that reads those positions then computes different logits. `run` calls the model on the inputs.
    """
    # only these encoders skip padding, so all other models are spared the extra pass
    if not any(isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor for part in model.modules()):
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that nested tensors are a prototype
        plain = logits_of(run(model))
    gap = float((plain - logits).abs().max())
    # not `gap >`, which is False for NaN
    if not gap <= 1e-3 * max(float(logits.abs().max()), 1e-12):
        raise UnsupportedOperation(
            f"the model's logits differ by {gap:.3g} between running with and without gradients: without them, its "
            "nn.TransformerEncoder returns zeros at the positions of padded tokens, which the model then uses. Build "
            "the encoder with enable_nested_tensor=False, or set its use_nested_tensor to False."
        )
