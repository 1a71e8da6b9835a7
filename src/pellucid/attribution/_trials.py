"""Run a model on many changed copies of the same images, a few at a time, and show how far it has come."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic

import torch
from torch import Tensor

from pellucid.attribution._explanation import Outcome, sharing
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution.gradient import baseline_like
from pellucid.core.errors import ConfigError
from pellucid.core.options import Count
from pellucid.core.terminal import Tracker, track
from pellucid.engine.recorder import BatchMixed

__all__ = ["COPIES_AT_ONCE", "Sizes", "Trials", "progress", "sizes_of"]

Sizes = Count | tuple[Count, ...] | None
"""One size for all spatial axes, one for each, or one for the channels and each; None for the method's default."""

COPIES_AT_ONCE = 32
"""So many changed images are run together, or one copy of each image where there are more."""
QUIET_SECONDS = 1.0
"""Work that is done by then shows no progress."""


class Trials:
    """The explained scores of changed copies of the same images, for one target or several."""

    def __init__(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], baseline: float | int | Tensor
    ) -> None:
        self.images = images
        self._is_checked = False
        self.baseline = baseline_like(baseline, images)
        self._subject = subject
        self.logits, self._targets = subject.predict(images, targets)
        self.score = self.score_of(self.logits)
        """(target, batch): of the images as they are."""

    @property
    def at_once(self) -> int:
        """How many copies of the images are run together."""
        return 1 if self._subject.is_mixed else max(1, COPIES_AT_ONCE // len(self.images))

    def scores(self, copies: Tensor) -> Tensor:
        """(target, copy, batch) of copies (copy, batch, …)."""
        with torch.no_grad():
            together = self._subject.logits(copies.flatten(0, 1))
            self._check_apart(copies[0, :1], together)
            logits = together.unflatten(0, copies.shape[:2])
            return torch.stack([self.score_of(rows) for rows in logits], 1)

    def _check_apart(self, first: Tensor, together: Tensor) -> None:
        """Once: `BatchMixed` where the first copy has other logits among the others than alone."""
        if self._is_checked or len(together) == 1:
            return
        alone, allowed = self._subject.logits(first), 1e-9 if first.dtype == torch.float64 else 1e-3
        if not bool((alone - together[:1]).abs().max() <= allowed * alone.abs().max().clamp(min=1e-12)):
            raise BatchMixed
        self._is_checked = True

    def score_of(self, logits: Tensor) -> Tensor:
        """(target, batch) of the images' logits after a change."""
        return torch.stack([target.scores(logits) for target in self._targets])

    def outcomes(self, maps: Tensor, copies: int, promised: Tensor | None = None) -> list[Outcome]:
        """One outcome for each target: of maps (target, batch, …), and of what they promise, (target, batch)."""
        spent = torch.full((len(self.images),), copies + 1, device=self.images.device)  # with the image itself
        return sharing(
            [
                Outcome(
                    relevance,
                    self.logits,
                    target.classes(self.logits),
                    None if promised is None else promised[number],
                    evaluations=spent,
                )
                for number, (target, relevance) in enumerate(zip(self._targets, maps, strict=True))
            ]
        )


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell how many of `total` are done; what is done within a second is not shown.

    >>> with progress("counting", total=3) as update:
    ...     update(3)
    """
    begun, trackers = monotonic(), list[Tracker]()
    with ExitStack() as stack:

        def update(done: int) -> None:
            if not trackers and done < total and monotonic() - begun > QUIET_SECONDS:
                trackers.append(stack.enter_context(track(label, total)))
            for tracker in trackers:
                tracker.update(done)

        yield update


def sizes_of(name: str, sizes: Sizes, default: list[int], shape: Sequence[int], whole: int) -> tuple[int, ...]:
    """One size for each axis but the batch's; channels that are not told of are taken as a whole."""
    own = default if sizes is None else [sizes] * len(default) if isinstance(sizes, int) else list(sizes)
    if len(own) not in (len(default), len(shape)):
        raise ConfigError(
            f"{name} has {len(own)} sizes for images of {tuple(shape)}; give one number, {len(default)} (one for each "
            f"spatial axis) or {len(shape)} (the channels first)."
        )
    return tuple(own) if len(own) == len(shape) else (whole, *own)
