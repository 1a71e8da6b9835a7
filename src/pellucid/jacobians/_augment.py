"""A wrapper that adds `return_jacobian` to a model."""

from typing import Any

from torch import Tensor, nn

from pellucid.engine.inputs import check_is_model
from pellucid.jacobians._jacobian import jacobian
from pellucid.jacobians._problem import Outputs

__all__ = ["Augmented", "augment"]

SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
"""Attributes of `nn.Module` shared by the wrapper and the model, so that both always see the same parameters."""


class Augmented(nn.Module):
    """A model with a `return_jacobian` method, as returned by `augment`. Shares its parameters and layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        vars(self)["_augmented"] = (
            model  # bypasses `nn.Module.__setattr__`: as a submodule it would prefix every state-dict key
        )
        for name in SHARED:
            vars(self)[name] = vars(model)[name]
        self.training = model.training

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Run the model."""
        return self._augmented(*inputs, **named_inputs)

    def return_jacobian(
        self,
        x: Tensor | tuple[Tensor, ...],
        outputs: Outputs = None,
        *,
        chunk: int | None = None,
        method: str = "auto",
    ) -> Any:
        """Return the Jacobian (batch, *outputs, *inputs). See `pellucid.jacobian` for the arguments."""
        return jacobian(self._augmented, x, outputs, chunk=chunk, method=method)

    def train(self, mode: bool = True) -> "Augmented":
        """Set training or eval mode for the model and all its layers."""
        self._augmented.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        """Look up any other attribute on the model, such as its own methods."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("_augmented", *SHARED):  # not set yet while copying or unpickling: avoids infinite recursion
                raise
            return getattr(self._augmented, name)

    # delegated, because the model may have overridden these methods
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._augmented._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._augmented._load_from_state_dict(*arguments, **named)


def augment(model: nn.Module) -> Augmented:
    """Return a module that trains, saves and predicts exactly like `model` and adds `return_jacobian(x)`.

    It shares parameters, buffers and layers with the model under the same names: training one trains the other, and
    their state dicts are interchangeable. You can therefore augment a model before training it or after loading it. The
    augmented model's `train()` and `eval()` set the mode of both.

    >>> import torch
    >>> model = augment(nn.Linear(3, 2))
    >>> model.return_jacobian(torch.rand(5, 3)).shape, list(model.state_dict())
    (torch.Size([5, 2, 3]), ['weight', 'bias'])
    """
    check_is_model(model)
    return model if isinstance(model, Augmented) else Augmented(model)
