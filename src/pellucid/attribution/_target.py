"""What of the logits is explained: the predicted class, given classes, or a score of one's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ShapeError

__all__ = ["Score", "Target"]

Score = Callable[[Tensor], Tensor]
"""Logits (batch, class) to one number per image, (batch,)."""


@dataclass(frozen=True, eq=False)
class Target:
    """A request, as the user gave it: None, one class, a class per image, or a score."""

    request: int | Tensor | Score | None = None

    @property
    def score(self) -> Score | None:
        """The user's own score, where one is asked for."""
        return self.request if callable(self.request) and not isinstance(self.request, Tensor) else None

    def classes(self, logits: Tensor) -> Tensor:
        """The class explained for each image, (batch,) int64; −1 for a score of one's own."""
        if self.score is not None:
            return torch.full((len(logits),), -1, dtype=torch.int64, device=logits.device)
        if self.request is None:
            return logits.argmax(1)
        classes = torch.as_tensor(self.request, device=logits.device)
        classes = classes.expand(len(logits)) if classes.ndim == 0 else classes
        self._check(classes, logits)
        return classes.to(torch.int64)

    def _check(self, classes: Tensor, logits: Tensor) -> None:
        if classes.dtype.is_floating_point or classes.dtype == torch.bool or classes.shape != logits.shape[:1]:
            raise ShapeError(
                f"target is {tuple(classes.shape)} {classes.dtype} for {len(logits)} images; "
                "give one class index, one per image (such as logits.argmax(1)), or a function logits -> (batch,)."
            )
        if len(classes) and not (int(classes.min()) >= 0 and int(classes.max()) < logits.shape[1]):
            raise ShapeError(
                f"target has classes {int(classes.min())}…{int(classes.max())}, and the model has {logits.shape[1]}; "
                f"give indices from 0 to {logits.shape[1] - 1}."
            )

    def scores(self, logits: Tensor) -> Tensor:
        """The explained number of each image, (batch,); differentiable in `logits`."""
        if self.score is None:
            return logits.gather(1, self.classes(logits)[:, None])[:, 0]
        scores: object = self.score(logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ShapeError(
                f"the target function returns {came} for {len(logits)} images; return one number per image."
            )
        if logits.requires_grad and not scores.requires_grad:
            raise ShapeError("the target function's scores carry no gradient to the logits; it must not detach them.")
        return scores

    def slope(self, logits: Tensor) -> Tensor:
        """∂ score / ∂ logits, (batch, class): one at the explained class."""
        if self.score is None:
            return F.one_hot(self.classes(logits), logits.shape[1]).to(logits.dtype)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            return torch.autograd.grad(self.scores(leaf).sum(), leaf)[0]

    def part(self, start: int, stop: int) -> "Target":
        """The request for some of the images."""
        if isinstance(self.request, Tensor) and self.request.ndim:
            return Target(self.request[start:stop])
        return self
