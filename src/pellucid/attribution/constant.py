"""The same number everywhere, as a control: a method that does no better shows nothing at all."""

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

    answers: ClassVar[str] = "nothing, of every pixel alike (a control)"

    def draw(self, images: Tensor) -> Tensor:
        return torch.ones_like(images)
