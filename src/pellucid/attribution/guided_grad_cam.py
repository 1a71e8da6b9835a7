"""Guided Grad-CAM: Guided Backprop masked by Grad-CAM (Selvaraju et al., 2017)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution.grad_cam import GradCam
from pellucid.attribution.guided_backprop import GuidedBackprop


@METHODS.register("guided_grad_cam")
@dataclass(frozen=True)
class GuidedGradCam(GradCam):
    """R = Guided Backprop ⊙ the upsampled Grad-CAM map (section 3.2 of the paper)."""

    answers: ClassVar[str] = "which fine pattern excites the network in the regions that raise the explained logit"

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        coarse = super().attribute_each(subject, images, question)
        fine = GuidedBackprop().attribute_each(subject, images, question)
        passes = [2, *(1 for _ in coarse[1:])]  # Guided Backprop shares its forward pass between targets
        return [
            replace(one, relevance=own.relevance * one.relevance, evaluations=torch.full_like(one.classes, count))
            for one, own, count in zip(coarse, fine, passes, strict=True)
        ]
