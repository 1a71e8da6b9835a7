"""The contract of a prior: which images are plausible, and how they are searched."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.types import Images

__all__ = ["Parameters", "Prior"]

Parameters = Float[Tensor, "prototype *numbers"]
"""What is searched: pixels, a spectrum or codes, one entry per prototype."""


@dataclass(frozen=True, kw_only=True)
class Prior(ABC):
    """Knobs of a search, and log p(x) of the images it finds; itself unchanged by any search."""

    needs_density: ClassVar[bool] = False
    """Whether it has a field `density`, to be fitted to images."""

    weight: float
    """How much log p(x) counts against log p(class | x)."""
    steps: int
    """Of gradient ascent (Adam)."""
    learning_rate: float
    """At the first step; it falls to zero."""
    starts: int = 1
    """Searches per prototype, of which the best is kept."""
    refined_share: float = 0.0
    """Further steps of the best search alone, as a share of `steps`; the learning rate begins and falls again."""
    shift_share: float = 0.05
    """The network sees each image shifted at random by up to this share of its side, but for the last steps."""
    rotation_degrees: float = 8.0
    """… rotated by up to this angle."""
    scale_share: float = 0.08
    """… enlarged or reduced by up to this share."""
    repulsion: float = 0.5
    """With several prototypes of one class: nats per unit of their mean cosine similarity."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number out of its range."""
        for name in ("steps", "starts"):
            self._check_range(name, 1)
        for name in ("refined_share", "learning_rate", "weight", "repulsion"):
            self._check_range(name, 0)
        for name in ("shift_share", "rotation_degrees", "scale_share"):
            self._check_range(name, 0, 180 if name == "rotation_degrees" else 0.9)

    def _check_range(self, name: str, low: float, high: float = float("inf")) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            limits = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
            raise ConfigError(f"the option {name} is {value}, and must be {limits}.")

    @classmethod
    def options(cls) -> list[str]:
        """The names of its knobs."""
        return [field.name for field in fields(cls)]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""

    @abstractmethod
    def begin(self, count: int, seed: int) -> Parameters:
        """At least `count` places to begin at; of more, those with the best objective are taken."""

    @abstractmethod
    def decode(self, parameters: Parameters) -> Images:
        """The images of some parameters, in [0, 1]; differentiable."""

    @abstractmethod
    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:
        """The log p(x) of `images`, which are those of `parameters`; up to a constant, in nats."""

    @abstractmethod
    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """Any images as this prior can express them, and the log p(x) of those."""

    def constrain(self, parameters: Parameters) -> None:  # noqa: ARG002
        """Put parameters that left their range back, in place; by default they have none."""
        return

    def on(self, device: torch.device) -> "Prior":  # noqa: ARG002
        """A copy that computes on `device`."""
        return self

    def summary(self) -> dict[str, Any]:
        """Its plain knobs, as JSON values."""
        values = {name: getattr(self, name) for name in self.options()}
        return {name: value for name, value in values.items() if isinstance(value, int | float | str)}
