"""One call of an analyzer: the inputs in batches or one by one, and the outcomes joined again."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.attribution._baselines import is_per_image
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._finite import check_outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question
from pellucid.core.errors import ShapeError
from pellucid.engine.axes import BatchMixed

__all__ = ["Call"]


@dataclass(eq=False)
class Call:
    """The inputs of a call, (batch, …), with the method and the question about them."""

    name: str
    """Registered name of the method."""
    method: Attribution
    subject: Subject
    x: Tensor
    question: Question
    is_always_single: bool = False
    """True if examples must run one at a time."""

    def in_batches(self) -> list[Outcome]:
        """Explain the inputs in batches, as large as is fast."""
        x, subject = self.x, self.subject
        with self.subject.explained_errors(self.x):
            # A custom score may depend on the whole batch, so the batch is not split for it.
            is_whole = self.question.targets[0].is_of_batch
            size = len(x) if is_whole else subject.images_per_pass(x, self.method.images_per_pass(x))
            is_all = self.question.targets[0].is_all
            # One image is enough to count the classes.
            self._expand(x[:1])
            starts = range(0, len(x), size)
            with self._announced() if is_all else nullcontext():
                return _joined([self._explain_batch(slice(n, min(n + size, len(x)))) for n in starts])

    def one_by_one(self, hold: Callable[[int], None]) -> list[Outcome]:
        """Explain the inputs one at a time; `hold` prepares the model for each of them, by its index."""
        singles = []
        with self.subject.explained_errors(self.x):
            for n in range(len(self.x)):
                hold(n)
                self._expand(self.x[n : n + 1])
                singles.append(self._explain(slice(n, n + 1)))
        return self._joined_singles(singles)

    def _announced(self) -> AbstractContextManager[None]:
        """Announce the number of gradients of each class, by which compiling the native kernel pays off or not."""
        # imported here, because most explanations are of one class
        from pellucid.jacobians._native.job import expected_images

        return expected_images(len(self.x) * self.method.gradients_per_image)

    def _expand(self, first: Tensor) -> None:
        """Replace the target "all" by one target per class; `first` is a single example."""
        targets = self.question.targets
        if targets[0].is_all:
            with torch.no_grad():
                expanded = targets[0].each(self.subject.logits(first.detach()))
            self.question = replace(self.question, targets=tuple(expanded))

    def _explain_batch(self, which: slice) -> list[Outcome]:
        """Explain one batch of the images; one by one if the model mixes them."""
        subject = self.subject
        if not subject.is_mixed:
            try:
                return self._explain(which)
            except BatchMixed:
                subject.is_mixed = True  # later batches of this call run image by image right away
        return self._joined_singles([self._explain(slice(n, n + 1)) for n in range(which.start, which.stop)])

    def _explain(self, which: slice) -> list[Outcome]:
        """Run the method on some inputs of the call, and check that its results are finite."""
        images, question, subject = self.x.detach()[which], self.question.part(which), self.subject
        subject.first = which.start  # errors name images by their place in the call
        method = self.method
        if is_per_image(baseline := getattr(method, "baseline", None), self.x):
            method = replace(method, baseline=baseline[which])  # type: ignore[call-arg, index]
        outcomes = method.attribute_each(subject, images, question)
        assert len(outcomes) == len(question.places)
        subject.check_finite(outcomes[0].logits, question.targets)
        for outcome in outcomes:
            if not outcome.is_finite:
                check_outcome(outcome, method, self.name, what=subject.what, first=subject.first)
        if not self.is_always_single:
            subject.check_alone(images, outcomes[0].logits)
        return outcomes

    def _joined_singles(self, singles: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """Join outcomes of single inputs; `ShapeError` if a custom score of one depends on the rest of the batch."""
        outcomes, target = _joined(singles), self.question.targets[0]
        if target.is_of_batch:
            alone = torch.cat([target.scores(single[0].logits).detach() for single in singles])
            if not torch.allclose(alone, target.scores(outcomes[0].logits).detach(), rtol=1e-3, atol=1e-6):
                raise ShapeError(
                    "the target function's score of an input depends on the rest of the batch. Token sequences, "
                    "examples with integer inputs and images that the model mixes, are explained one at a time, so the "
                    "function must accept outputs of shape (1, …) and score each row independently."
                )
        return outcomes


def _joined(parts: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Join the outcomes of several batches, target by target."""
    return [Outcome.join(outcomes) for outcomes in zip(*parts, strict=True)]
