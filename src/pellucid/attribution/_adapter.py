"""The base class of models that are explained through other inputs than their own."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """A model seen through other inputs, whose modules, parameters and state keep the names of the wrapped model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Modules of the wrapped model, under their original names."""
        return self.model.named_modules(*args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        """Module of the wrapped model under its original name."""
        return self.model.get_submodule(target)

    def probed(self, moved: Tensor, rows: Tensor) -> Tensor:
        """Return inputs moved away from `rows` to test for missing gradients, without changes that need no gradient."""
        return moved

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """State of the wrapped model, so that both have the same fingerprint."""
        return self.model.state_dict(*args, **kwargs)
