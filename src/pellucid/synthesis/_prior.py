"""The prior contract: which images are plausible, and how to search them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.options import check_options
from pellucid.core.types import Images

__all__ = ["Parameters", "Prior"]

Parameters = Float[Tensor, "prototype *numbers"]
"""Optimized variables: pixels, a spectrum or codes, one entry per prototype."""


@dataclass(frozen=True, kw_only=True)
class Prior(ABC):
    """Hyperparameters of a search, and log p(x) of the images; a search never modifies a prior.

    The search optimizes `Parameters`, which `decode` turns into images. A prior is registered under its file's name.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Uniform(Prior):
    ...     shape = (1, 4, 4)
    ...     def begin(self, count, seed):
    ...         return torch.full((count, *self.shape), 0.5)
    ...     def decode(self, parameters):
    ...         return parameters.clamp(0, 1)
    ...     def log_prior(self, parameters, images):
    ...         return torch.zeros(len(images))
    ...     def of_images(self, images):
    ...         return images, torch.zeros(len(images))
    >>> from pellucid.synthesis import synthesise
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> synthesise(model, None, Uniform(weight=0.0, steps=5, learning_rate=0.1), seed=0).images.shape
    torch.Size([3, 1, 4, 4])
    """

    needs_density: ClassVar[bool] = False
    """True if the prior has a field `density` that must be fitted to images."""

    weight: float
    """Weight of log p(x) relative to log p(class | x)."""
    steps: int
    """Steps of gradient ascent (Adam)."""
    learning_rate: float
    """Initial learning rate; it decays linearly to zero."""
    starts: int = 1
    """Searches per prototype; the best is kept."""
    refined_share: float = 0.0
    """Refinement steps for the best search, as a share of `steps`; the learning rate schedule restarts."""
    shift_share: float = 0.05
    """Largest random shift of the images that the network sees, as a share of their side; off in the last steps."""
    rotation_degrees: float = 8.0
    """Largest random rotation."""
    scale_share: float = 0.08
    """Largest random change of scale."""
    repulsion: float = 0.5
    """Penalty for similar prototypes of one class, in nats per unit of mean cosine similarity."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values of the wrong type or out of range."""
        check_options(self)
        for name in ("steps", "starts"):
            self._check_range(name, 1)
        for name in ("refined_share", "learning_rate", "weight", "repulsion"):
            self._check_range(name, 0)
        for name in ("shift_share", "rotation_degrees", "scale_share"):
            self._check_range(name, 0, 180 if name == "rotation_degrees" else 0.9)

    def _check_range(self, name: str, low: float, high: float = float("inf")) -> None:
        value = getattr(self, name)
        # written this way, the test also rejects NaN
        if not low <= value <= high:
            limits = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
            raise ConfigError(f"got {name}={value}; the option must be {limits}.")

    @classmethod
    def options(cls) -> list[str]:
        """Return the names of the hyperparameters."""
        return [field.name for field in fields(cls)]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""

    @abstractmethod
    def begin(self, count: int, seed: int) -> Parameters:
        """Return at least `count` starting points; if there are more, the search uses those with the best objective."""

    @abstractmethod
    def decode(self, parameters: Parameters) -> Images:
        """Return the images of the parameters, in [0, 1]; differentiable."""

    @abstractmethod
    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:
        """Return log p(x) of `images`, decoded from `parameters`; in nats, up to a constant."""

    @abstractmethod
    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """Return the images as this prior can express them, and their log p(x)."""

    def constrain(self, parameters: Parameters) -> None:  # noqa: ARG002
        """Clamp parameters to their range, in place; a no-op by default."""
        return

    def on(self, device: torch.device) -> "Prior":  # noqa: ARG002
        """Return a copy that computes on `device`."""
        return self

    def summary(self) -> dict[str, Any]:
        """Return the plain hyperparameters as JSON values."""
        values = {name: getattr(self, name) for name in self.options()}
        return {name: value for name, value in values.items() if isinstance(value, int | float | str)}
