"""A model that can tell its own Jacobian."""

from typing import Any

from torch import Tensor, nn

from pellucid.jacobian._jacobian import jacobian
from pellucid.jacobian._problem import Outputs

__all__ = ["Augmented", "augment"]

SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class Augmented(nn.Module):
    """A model with `return_jacobian`; made by `augment`. It owns nothing: parameters and layers are the model's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        vars(self)["_augmented"] = model  # not a layer: names in state_dict() stay those of the model
        for name in SHARED:
            vars(self)[name] = vars(model)[name]
        self.training = model.training

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """What the model returns."""
        return self._augmented(*inputs, **named_inputs)

    def return_jacobian(
        self,
        x: Tensor | tuple[Tensor, ...],
        outputs: Outputs = None,
        *,
        chunk: int | None = None,
        method: str = "auto",
    ) -> Any:
        """Every output by every input, (batch, *outputs, *inputs): see `pellucid.jacobian`."""
        return jacobian(self._augmented, x, outputs, chunk=chunk, method=method)

    def train(self, mode: bool = True) -> "Augmented":
        """Set the mode of the model and of all its layers."""
        self._augmented.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        """What the model has and this has not: its own methods and settings."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("_augmented", *SHARED):
                raise
            return getattr(self._augmented, name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._augmented._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._augmented._load_from_state_dict(*arguments, **named)


def augment(model: nn.Module) -> Augmented:
    """A module that trains, saves and predicts exactly as `model`, and has `return_jacobian(x)`.

    Its parameters, buffers and layers are the model's own, under the same names: training one trains the other, and a
    state dict of either loads into both. So a model can be augmented before it is trained, or after it was loaded. The
    mode (training or not) is set for both by the augmented model's `train()` and `eval()`.

    >>> import torch
    >>> model = augment(nn.Linear(3, 2))
    >>> model.return_jacobian(torch.rand(5, 3)).shape, list(model.state_dict())
    (torch.Size([5, 2, 3]), ['weight', 'bias'])
    """
    return model if isinstance(model, Augmented) else Augmented(model)
