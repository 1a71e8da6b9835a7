"""Expected gradients: integrated gradients, averaged over baselines from the data (Erion et al., 2021)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, FittedState, Outcome, Question, Subject, images_in, sharing
from pellucid.attribution._hidden import FromLayer, from_layers
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._paths import Gradients
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("expected_gradients")
@dataclass(frozen=True)
class ExpectedGradients(Attribution):
    """R = E[(x − x′) ⊙ ∂f(x′ + a(x − x′))] over references x′ and path positions a.

    Positions are stratified: one in each of `samples` equal parts of [0, 1]. The sum of the map converges to
    f(x) − E f(x′) as `samples` grows; no exact sum is promised.
    """

    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each pixel adds to the logit, relative to typical images"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    needs_fit: ClassVar[bool] = True

    samples: Count = 64
    """Number of pairs of a reference and a path position to average."""
    references: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None
    """Reference images, (reference, …); None: `fit` takes them from data. For several inputs, in their structure."""
    keep: Count = 256
    """Number of reference images that `fit` keeps; it keeps the first ones."""
    seed: int = 0

    reaches_layers: ClassVar[bool] = True

    @property
    def gradients_per_image(self) -> int:
        return self.samples

    @property
    def is_ready(self) -> bool:
        return self.references is not None

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> Attribution:
        kept: list[Tensor] = []
        for images in images_in(loader):
            if kept and images.shape[1:] != kept[0].shape[1:]:
                raise ShapeError(
                    f"the loader yields images of {tuple(images.shape[1:])} after {tuple(kept[0].shape[1:])}; "
                    "expected_gradients needs references of one size: pass images (or token ids) of one size."
                )
            kept.append(images)
            if sum(map(len, kept)) >= self.keep:
                break
        if not kept:
            raise ConfigError("the loader passed to fit is empty; expected_gradients needs at least one batch.")
        return replace(self, references=torch.cat(kept)[: self.keep])

    def state(self) -> FittedState:
        if not isinstance(self.references, Tensor):
            raise ConfigError(
                "references of several inputs cannot be saved before the first call; use fit(loader) to set them."
            )
        return FittedState("expected_gradients", {"references": self.references}, {})

    def restored(self, subject: Subject, state: FittedState) -> Attribution:
        state.check_kind("expected_gradients")
        return replace(self, references=state.tensors["references"])

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        references = self.references
        if not isinstance(references, Tensor) or not references.ndim:
            raise ShapeError(
                f"references is {references!r}, but the model has a single input; pass a tensor (reference, …)."
            )
        if references.shape[1:] != images.shape[1:] or not len(references):
            raise ShapeError(
                f"expected_gradients has {len(references)} references of {tuple(references.shape[1:])}, and the images "
                f"are {tuple(images.shape[1:])}; fit it on images (or token ids) of that size."
            )
        logits, held = subject.predict(images, question.targets)
        source = generator(self.seed, "expected_gradients")
        # Drawn on the CPU, so that the samples are the same on every device.
        chosen = torch.randint(len(references), (self.samples,), generator=source, device="cpu")
        offsets = torch.rand(self.samples, generator=source, dtype=torch.float64, device="cpu")
        places = (torch.arange(self.samples, device="cpu") + offsets) / self.samples  # stratified over [0, 1]
        totals = [torch.zeros_like(images) for _ in held]
        for index, place in zip(chosen.tolist(), places.tolist(), strict=True):
            difference = images - references[index].to(images)
            if isinstance(subject.model, FromLayer):
                difference[:, subject.model.shape.numel() :] = 0  # the columns of the image, which is held
            # Each gradient is multiplied by its own difference, so the sums cannot be shared between references.
            gradients = Gradients(subject, images, held, is_part=True)
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
