"""Freeze a model for evaluation, and restore its state afterwards."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from pellucid.core.isolation import exclusive, preserved_random_state

__all__ = ["device_of", "dtype_of", "frozen", "modules_of", "runs_torch_alone"]


@contextmanager
def frozen(model: nn.Module, *, only_model_draws: bool = False) -> Iterator[nn.Module]:
    """Put the model in eval mode without parameter gradients; restore its exact state on exit, also after an exception.

    Restores the mode of every submodule, `requires_grad` and `.grad` of every parameter, every buffer (a forward pass
    may update one, such as a counter or running mean), and the global random states. `only_model_draws` states that
    nothing else in the body draws random numbers, which saves time for models that consist of torch's own layers. Holds
    the lock of `pellucid.core.isolation` throughout, so that no other thread sees the frozen model.

    >>> layer = torch.nn.Dropout(0.5)
    >>> with frozen(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    with exclusive():
        modes, parameters, buffers = _remember(model)
        is_torch_alone = only_model_draws and runs_torch_alone(module for module, _ in modes)
        try:
            with preserved_random_state(torch_alone=is_torch_alone):
                if any(training for _, training in modes):  # model.eval() alone can cost more than a small forward pass
                    model.eval()
                for parameter, requires_grad, _ in parameters:
                    if requires_grad:
                        parameter.requires_grad_(False)
                yield model
        finally:
            for module, training in modes:
                if module.training is not training:
                    module.training = training
            for parameter, requires_grad, grad in parameters:
                if parameter.requires_grad is not requires_grad:
                    parameter.requires_grad_(requires_grad)
                if parameter.grad is not grad:
                    parameter.grad = grad
            _restore_buffers(buffers)


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


Modes = list[tuple[nn.Module, bool]]
Parameters = list[tuple[nn.Parameter, bool, Tensor | None]]
Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


def _remember(model: nn.Module) -> tuple[Modes, Parameters, Buffers]:
    """Collect all state to restore in one walk, since each walk costs as much as a small network's forward pass."""
    modes: Modes = []
    parameters: Parameters = []
    buffers: Buffers = []
    for module in modules_of(model):
        modes.append((module, module.training))
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
        if type(module).__module__ not in _LAYERS or "forward" in own:
            return False
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return False
    return True


def _restore_buffers(buffers: Buffers) -> None:
    for module, name, buffer, content in buffers:
        module._buffers[name] = buffer
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


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's first floating parameter; float32 if it has none.

    >>> dtype_of(nn.Linear(2, 2).double()), dtype_of(nn.Flatten())
    (torch.float64, torch.float32)
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
