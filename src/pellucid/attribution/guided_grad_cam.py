"""Guided Grad-CAM: Guided Backprop masked by Grad-CAM (Selvaraju et al., 2017)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution.grad_cam import GradCam
from pellucid.attribution.guided_backprop import GuidedBackprop


@METHODS.register("guided_grad_cam")
@dataclass(frozen=True)
class GuidedGradCam(GradCam):
    """R = Guided Backprop ⊙ the upsampled Grad-CAM map (section 3.2 of the paper)."""

    answers: ClassVar[str] = "which fine pattern excites the network in the regions that raise the explained logit"

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        coarse = super().attribute(subject, images, target, is_certified=is_certified)
        fine = GuidedBackprop().attribute(subject, images, target, is_certified=False)
        return replace(
            coarse,
            relevance=fine.relevance * coarse.relevance,
            evaluations=torch.full_like(coarse.classes, 2),
        )
