"""Sensitivity: the squared gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution.gradient import changed, slopes


@METHODS.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(Attribution):
    """(∂ logit / ∂ x)², which sums to the squared norm of the gradient (Montavon et al., 2018, section 4.1)."""

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "which pixels the explained logit reacts to, in either direction"

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return changed(slopes(subject, images, target), torch.square)
