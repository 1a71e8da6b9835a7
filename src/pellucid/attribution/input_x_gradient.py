"""Input times gradient: the first-order effect of each pixel (Shrikumar et al., 2016)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution.gradient import changed, slopes


@METHODS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient(Attribution):
    """x ⊙ ∂ logit / ∂ x, in logits.

    On a network of bias-free layers and ReLUs it sums to the logit; on others no sum is promised.
    """

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "how much each pixel adds to the logit, were the network linear here"

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return changed(slopes(subject, images, target), images.mul)
