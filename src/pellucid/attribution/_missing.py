"""Distinguish scores whose gradient is missing from scores whose gradient is zero."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pellucid.attribution._adapter import Adapter
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target, rows_of
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.derivatives import WAY_OUT, derivatives, listed, unseen_changes, zero_rows

__all__ = ["MissingGradient", "check_gradients", "gradient_of", "gradients_of"]


class MissingGradient(UnsupportedOperation):
    """Some explained classes depend on the image but have no gradient; others may have one."""

    def __init__(self, missing: Iterable[int], fine: Iterable[int]) -> None:
        self.missing, self.fine = set(missing), set(fine) - set(missing)
        super().__init__(self._text())

    def _text(self) -> str:
        missing, fine = sorted(self.missing - {-1}), sorted(self.fine - {-1})  # −1 is a custom score
        if not missing:
            subject = "the target function's score changes with the image, but has"
        elif len(missing) == 1:
            subject = f"the output {missing[0]} changes with the image, but has"
        else:
            subject = f"the outputs {listed(missing)} change with the image, but have"
        others = ""
        if fine:
            others = f" The gradient of {listed(fine)} is fine: you can pass one of these as the target."
        return (
            f"{subject} no gradient: a detached value or an operation without a derivative cuts off every path, and "
            f"a map of zeros would be wrong; {WAY_OUT}{others}"
        )


def gradient_of(score: Tensor, leaf: Tensor, *, is_kept: bool = False) -> Tensor:
    """∂ score / ∂ leaf; raises `UnsupportedOperation` if autograd has no derivative."""
    slope = derivatives(score, [leaf], way_out=WAY_OUT, retain_graph=is_kept)[0]
    assert slope is not None
    return slope


def gradients_of(subject: Subject, logits: Tensor, leaf: Tensor, targets: Sequence[Target]) -> Iterator[Tensor]:
    """Yield ∂ score / ∂ leaf of each target; the last one frees the graph of the logits.

    Raises `UnsupportedOperation` if autograd has no derivative.
    """
    is_all = len(targets) > 1 and [target.index for target in targets] == list(range(rows_of(logits).shape[1]))
    if is_all and not subject.has_hooks:
        # imported here, because most explanations are of one class
        from pellucid.jacobians._classes import class_gradients

        yield from class_gradients(rows_of(logits), leaf, WAY_OUT, subject.agreements)
        return
    for number, target in enumerate(targets, start=1):
        # The gradient of the sum over the images is the gradient of each image.
        yield gradient_of(target.scores(logits).sum(), leaf, is_kept=number < len(targets))


def check_gradients(
    subject: Subject,
    images: Tensor,
    targets: Sequence[Target],
    slopes: Sequence[Tensor],
    logits: Tensor | None = None,
) -> None:
    """Raise `MissingGradient` if an explained score depends on an image although its gradient is exactly zero.

    `slopes` holds one gradient per target; `logits` gives the predicted class of targets that do not name one. Reads
    only a few entries of each gradient unless one is zero everywhere.
    """
    # A gradient of exactly zero is rare, and only then do further passes tell a missing gradient from a true zero.
    zeros = [zero_rows(slope) for slope in slopes]
    if all(rows is None for rows in zeros):
        return
    no_rows = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    is_zero = torch.stack([no_rows if rows is None else rows for rows in zeros], 1)  # (batch, target)
    # A changed image may have another predicted class; the question is about the class that was explained.
    held = targets if logits is None else [target.held(logits) for target in targets]
    classes: list[Tensor] = []

    # All targets at once: the comparison costs a few passes, whatever their number.
    def scores(x: Tensor) -> Tensor:
        model = subject.model
        logits = subject.logits(model.probed(x, images) if isinstance(model, Adapter) else x)
        classes[:] = [target.classes(logits) for target in held]
        return torch.stack([target.scores(logits) for target in held], 1)

    unseen = unseen_changes(scores, images, is_zero)
    if bool(unseen.any()):
        # `scores` has run on a nearby image by now and left the explained classes here.
        explained = torch.stack(classes, 1)
        raise MissingGradient(explained[unseen].tolist(), explained[~is_zero].tolist())
