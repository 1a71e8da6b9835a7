"""A float64 copy of a model, used as the reference for numerical checks."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.errors import ModelError
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.model import check_autocast, device_of
from pellucid.engine.wrapping import fixed

__all__ = ["DoubleModel"]


class DoubleModel:
    """A copy of a model that computes in float64 throughout, in eval mode. The model itself is not modified.

    The copy stays on the model's device, or moves to the CPU if the device lacks float64 (MPS). A cast to a lower
    precision in the model's own code (`logits.float()`) becomes a cast to float64, because its rounding would swamp
    finite differences.

    Raises `ModelError` if the model cannot be copied; calling it raises `ModelError` if the copy does not run in
    float64.

    >>> double = DoubleModel(nn.Linear(2, 1))
    >>> double(torch.zeros(1, 2)).dtype
    torch.float64
    """

    def __init__(self, model: nn.Module) -> None:
        device = device_of(model)
        self.device = torch.device("cpu") if device.type == "mps" else device
        try:
            # `deepcopy` takes the copies in its memo instead of making new ones
            copy = deepcopy(model, _plain_tensors(model, self.device))
            self._model = fixed(copy.to(self.device, torch.float64))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"the model cannot be copied for a check in float64: {error}") from error

    def prepare(self, x: Tensor) -> Tensor:
        """Move `x` to the copy's device, and to float64 if it is floating-point."""
        return x.detach().to(self.device, torch.float64 if x.is_floating_point() else x.dtype)

    def __call__(self, *inputs: Any, **named_inputs: Any) -> Any:
        # `prepare` detaches, so inputs that require a gradient must be prepared by the caller
        def prepared(x: Any) -> Any:
            is_ready = not isinstance(x, Tensor) or x.requires_grad or not x.is_floating_point()
            return x if is_ready else self.prepare(x)

        try:
            with SoundNorms(self._model), _KeepDouble():
                return self._model(
                    *map(prepared, inputs), **{name: prepared(value) for name, value in named_inputs.items()}
                )
        except (RuntimeError, TypeError) as error:
            raise ModelError(f"the model does not run in float64, which this check needs: {error}") from error


def _plain_tensors(model: nn.Module, device: torch.device) -> dict[int, Any]:
    """Return a memo for `deepcopy` that converts tensors stored as plain attributes, which `Module.to` skips."""
    values = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {
        id(value): value.detach().to(device, torch.float64 if value.is_floating_point() else value.dtype, copy=True)
        for value in values
    }


class _KeepDouble(TorchFunctionMode):
    """Redirects casts to a lower precision, and new tensors of the default dtype, to float64."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_autocast(func, args, kwargs)  # a float64 copy ignores autocast and would confirm a different model
        options = {name: _promoted(value) for name, value in (kwargs or {}).items()}
        if func in _LOWERING:
            func = Tensor.double
        elif func in _FACTORIES:
            options.setdefault("dtype", torch.float64)
        return func(*map(_promoted, args), **options)


_LOWERING = {Tensor.float, Tensor.half, Tensor.bfloat16}
_FACTORIES = {torch.zeros, torch.ones, torch.rand, torch.randn, torch.empty, torch.linspace, torch.eye}


def _promoted(value: Any) -> Any:
    is_lower = isinstance(value, torch.dtype) and value in {torch.float32, torch.float16, torch.bfloat16}
    return torch.float64 if is_lower else value
