"""The image itself, as a control: a method that does no better shows the image, not the network."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject, sharing


@dataclass(frozen=True)
class Control(Attribution):
    """A map that does not depend on the network."""

    family: ClassVar[str] = "control"
    is_model_agnostic: ClassVar[bool] = True
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        with torch.no_grad():
            logits = subject.logits(images)
            drawn = self.draw(images)
            for target in question.targets:
                target.scores(logits)  # raises for invalid targets, although the map does not depend on them
            return sharing([Outcome(drawn, logits, target.classes(logits)) for target in question.targets])

    def draw(self, images: Tensor) -> Tensor:
        """Return the map of each image."""
        raise NotImplementedError


@METHODS.register("input")
@dataclass(frozen=True)
class Input(Control):
    """R = x."""

    answers: ClassVar[str] = "what the image looks like (a control)"

    def draw(self, images: Tensor) -> Tensor:
        return images.clone()
