"""Explained scores whose gradient is missing, told apart from those whose gradient is zero."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.derivatives import WAY_OUT, derivatives, listed, unseen_changes, zero_rows

__all__ = ["MissingGradient", "check_gradients", "gradient_of"]


class MissingGradient(UnsupportedOperation):
    """Some explained classes change with the image and have no gradient; others may have one."""

    def __init__(self, missing: Iterable[int], fine: Iterable[int]) -> None:
        self.missing, self.fine = set(missing), set(fine) - set(missing)
        super().__init__(self._text())

    def _text(self) -> str:
        missing, fine = sorted(self.missing - {-1}), sorted(self.fine - {-1})
        if not missing:
            subject = "the target function's score changes with the image, but has"
        elif len(missing) == 1:
            subject = f"the output {missing[0]} changes with the image, but has"
        else:
            subject = f"the outputs {listed(missing)} change with the image, but have"
        others = ""
        if fine:
            others = f" The gradient of {listed(fine)} is fine: pass one of them as the target."
        return (
            f"{subject} no gradient: a detached value or an operation without a derivative cuts off every path, and "
            f"a map of zeros would be wrong; {WAY_OUT}{others}"
        )


def gradient_of(score: Tensor, leaf: Tensor, *, is_kept: bool = False) -> Tensor:
    """∂ score / ∂ leaf; `UnsupportedOperation` where autograd knows none."""
    slope = derivatives(score, [leaf], way_out=WAY_OUT, retain_graph=is_kept)[0]
    assert slope is not None
    return slope


def check_gradients(
    subject: Subject,
    images: Tensor,
    targets: Sequence[Target],
    slopes: Sequence[Tensor],
    logits: Tensor | None = None,
) -> None:
    """Raise `MissingGradient` where an explained score changes with an image whose `slopes` are exactly zero.

    There is one target for each of `slopes`; `logits` tell the predicted class, for targets that do not hold a class
    yet. Costs nothing but a look at a few entries of each map unless one is zero everywhere.
    """
    zeros = [zero_rows(slope) for slope in slopes]
    if all(rows is None for rows in zeros):
        return
    none = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    is_zero = torch.stack([none if rows is None else rows for rows in zeros], 1)  # (batch, target)
    held = targets if logits is None else [target.held(logits) for target in targets]
    classes: list[Tensor] = []

    def scores(x: Tensor) -> Tensor:
        logits = subject.logits(x)
        classes[:] = [target.classes(logits) for target in held]
        return torch.stack([target.scores(logits) for target in held], 1)

    unseen = unseen_changes(scores, images, is_zero)
    if bool(unseen.any()):
        explained = torch.stack(classes, 1)
        raise MissingGradient(explained[unseen].tolist(), explained[~is_zero].tolist())
