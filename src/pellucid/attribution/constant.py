"""A constant map, as a control: a method that does no better carries no information."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution.input import Control


@METHODS.register("constant")
@dataclass(frozen=True)
class Constant(Control):
    """R = 1."""

    answers: ClassVar[str] = "nothing: every pixel gets the same value (a control)"

    def draw(self, images: Tensor) -> Tensor:
        return torch.ones_like(images)
