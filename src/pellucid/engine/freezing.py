"""Look at a model without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pellucid.core.seeding import preserved_random_state

__all__ = ["device_of", "dtype_of", "frozen"]


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter gradients; handed back exactly as it came, also when the body raises.

    Restored are the mode of every submodule, `requires_grad` and `.grad` of every parameter, every buffer (a forward
    pass may count or average in one), and the global random states.

    >>> layer = torch.nn.Dropout(0.5)
    >>> with frozen(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = _remember_buffers(model)
    try:
        with preserved_random_state():
            if any(training for _, training in modes):  # setting what is so already costs more than a small pass
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


def _remember_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _restore_buffers(buffers: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    for module, name, buffer, content in buffers:
        module._buffers[name] = buffer
        if not torch.equal(buffer, content):  # no write where none is needed: a graph may have saved the buffer
            with torch.no_grad():
                buffer.copy_(content)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has none.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    tensor = next((tensor for source in (model.parameters(), model.buffers()) for tensor in source), None)
    return torch.device("cpu") if tensor is None else tensor.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first floating parameter; float32 where it has none.

    >>> dtype_of(nn.Linear(2, 2).double()), dtype_of(nn.Flatten())
    (torch.float64, torch.float32)
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
