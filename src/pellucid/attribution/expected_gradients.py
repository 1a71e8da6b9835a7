"""Expected gradients: integrated gradients, averaged over baselines from the data (Erion et al., 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject, sharing
from pellucid.attribution._hidden import FromLayer, from_layers
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._paths import Gradients
from pellucid.attribution._references import WithReferences, checked_references
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("expected_gradients")
@dataclass(frozen=True)
class ExpectedGradients(WithReferences):
    """R = E[(x − x′) ⊙ ∂f(x′ + a(x − x′))] over references x′ and path positions a.

    Positions are stratified: one in each of `samples` equal parts of [0, 1]. The sum of the map converges to
    f(x) − E f(x′) as `samples` grows; no exact sum is promised.
    """

    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each pixel adds to the logit, relative to typical images"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    key: ClassVar[str] = "expected_gradients"

    samples: Count = 64
    """Number of pairs of a reference and a path position to average."""
    seed: int = 0

    reaches_layers: ClassVar[bool] = True

    @property
    def gradients_per_image(self) -> int:
        return self.samples

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        references = checked_references(self.key, self.references, images)
        logits, held = subject.predict(images, question.targets)
        totals = [torch.zeros_like(images) for _ in held]
        for index, place, start in self.draws(len(references), images):
            difference = start - references[index]
            if isinstance(subject.model, FromLayer):
                difference[:, subject.model.shape.numel() :] = 0  # the columns of the image, which is held
            # Each gradient is multiplied by its own difference, so the sums cannot be shared between references.
            gradients = Gradients(subject, start, held, is_part=True)
            gradients.add(difference, 1.0, scale=place - 1)  # image + (a − 1)(x − x′) = x′ + a(x − x′)
            for number, total in enumerate(totals):
                total += gradients.total(number) * difference
        check_gradients(subject, images, held, totals)
        spent = torch.full((len(images),), self.samples + 1, device=images.device)
        return sharing(
            [
                Outcome(total / self.samples, logits, target.classes(logits), evaluations=spent)
                for total, target in zip(totals, held, strict=True)
            ]
        )

    def draws(self, references: int, images: Tensor) -> Iterator[tuple[int, float, Tensor]]:
        """Yield the index of the reference, the path position and the end of the path of each sample."""
        source = generator(self.seed, self.key)
        # Drawn on the CPU, so that the samples are the same on every device.
        chosen = torch.randint(references, (self.samples,), generator=source, device="cpu")
        offsets = torch.rand(self.samples, generator=source, dtype=torch.float64, device="cpu")
        places = (torch.arange(self.samples, device="cpu") + offsets) / self.samples  # stratified over [0, 1]
        for index, place in zip(chosen.tolist(), places.tolist(), strict=True):
            yield index, place, images
