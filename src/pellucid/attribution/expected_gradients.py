"""Expected gradients: integrated gradients, averaged over baselines from the data (Erion et al., 2021)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome, sharing
from pellucid.attribution._method import Attribution, FittedState, images_in
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._paths import Gradients
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("expected_gradients")
@dataclass(frozen=True)
class ExpectedGradients(Attribution):
    """R = E[(x − x′) ⊙ ∂f(x′ + a(x − x′))] over references x′ and places a.

    There is one place in each of `samples` equal parts of [0, 1].

    Its sum nears f(x) − E f(x′) as `samples` grows; no sum is promised.
    """

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "how much each pixel adds to the logit, compared with typical images"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    needs_fit: ClassVar[bool] = True

    samples: Count = 64
    """How many pairs of a reference and a place on the path to average."""
    references: Tensor | None = None
    """(reference, …): the images to compare with; or let `fit` take them from data."""
    keep: Count = 256
    """How many images `fit` keeps, the first ones."""
    seed: int = 0

    @property
    def is_ready(self) -> bool:
        return self.references is not None

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> Attribution:
        kept: list[Tensor] = []
        for images in images_in(loader):
            if kept and images.shape[1:] != kept[0].shape[1:]:
                raise ShapeError(
                    f"the loader yields images of {tuple(images.shape[1:])} after {tuple(kept[0].shape[1:])}; "
                    "expected_gradients compares like with like: give images (or token ids) of one size."
                )
            kept.append(images)
            if sum(map(len, kept)) >= self.keep:
                break
        if not kept:
            raise ConfigError("the loader that expected_gradients was fitted on is empty; give at least one batch.")
        return replace(self, references=torch.cat(kept)[: self.keep])

    def state(self) -> FittedState:
        assert self.references is not None
        return FittedState("expected_gradients", {"references": self.references}, {})

    def restored(self, subject: Subject, state: FittedState) -> Attribution:
        state.check_kind("expected_gradients")
        return replace(self, references=state.tensors["references"])

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return self.attribute_each(subject, images, [target], is_certified=is_certified)[0]

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        assert self.references is not None
        if self.references.shape[1:] != images.shape[1:]:
            raise ShapeError(
                f"expected_gradients compares with references of {tuple(self.references.shape[1:])}, and the "
                f"images are {tuple(images.shape[1:])}; fit it on images (or token ids) of that size."
            )
        logits, held = subject.predict(images, targets)
        source = generator(self.seed, "expected_gradients")
        chosen = torch.randint(len(self.references), (self.samples,), generator=source, device="cpu")
        offsets = torch.rand(self.samples, generator=source, dtype=torch.float64, device="cpu")
        places = (torch.arange(self.samples, device="cpu") + offsets) / self.samples
        totals = [torch.zeros_like(images) for _ in held]
        for index, place in zip(chosen.tolist(), places.tolist(), strict=True):
            way = images - self.references[index].to(images)
            gradients = Gradients(subject, images, held, is_part=True)
            gradients.add(way, 1.0, scale=place - 1)
            for number, total in enumerate(totals):
                total += gradients.total(number) * way
        check_gradients(subject, images, held, totals)
        spent = torch.full((len(images),), self.samples + 1, device=images.device)
        return sharing(
            [
                Outcome(total / self.samples, logits, target.classes(logits), evaluations=spent)
                for total, target in zip(totals, held, strict=True)
            ]
        )
