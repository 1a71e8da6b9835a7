"""Run a model on many perturbed copies of the same images, in batches and with a progress bar."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution._explanation import Outcome, sharing
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError
from pellucid.core.options import Count
from pellucid.core.terminal import Tracker, track
from pellucid.engine.axes import BatchMixed

__all__ = ["COPIES_AT_ONCE", "Baseline", "Sizes", "Trials", "progress", "sizes_of"]

Sizes = Count | tuple[Count | tuple[Count, ...] | None, ...] | Mapping[str, Any] | None
"""One size for all spatial axes, one per spatial axis, or one per axis with channels first; None for the default. For a
model with several inputs, a tuple or dict holds one of these per input."""

COPIES_AT_ONCE = 32
"""Perturbed images per forward pass; larger batches of images run one copy at a time."""
CACHED_VALUES, FEWEST_COPIES = 200_000, 4
"""On a CPU, a pass takes at most so many input values, so that its activations stay in the cache: 16 copies of 64×64
RGB images, and for larger images at least `FEWEST_COPIES`."""
QUIET_SECONDS = 1.0
"""Work that finishes within this time shows no progress bar."""


class Trials:
    """Explained scores of perturbed copies of the same images, for one or several targets."""

    def __init__(self, subject: Subject, images: Tensor, targets: Sequence[Target], baseline: Baseline) -> None:
        self.images = images
        self._is_checked = False
        self.baseline = baseline_like(baseline, images)
        self.subject = subject
        self.logits, self._targets = subject.predict(images, targets)
        self.score = self.score_of(self.logits)
        """(target, batch): scores of the unperturbed images."""

    @property
    def at_once(self) -> int:
        """Copies of the images per forward pass."""
        if self.subject.is_mixed:
            return 1  # a model that mixes images gets each copy alone
        most = COPIES_AT_ONCE
        if self.images.device.type == "cpu":
            most = min(most, max(FEWEST_COPIES, CACHED_VALUES // self.images[0].numel()))
        return max(1, most // len(self.images))

    def scores(self, copies: Tensor) -> Tensor:
        """Compute the scores, (target, copy, batch), of copies (copy, batch, …)."""
        return self.scores_of(self.logits_of(copies))

    def logits_of(self, copies: Tensor) -> Tensor:
        """Compute the logits, (copy, batch, …), of copies (copy, batch, …)."""
        with torch.no_grad():
            # Copies and images share the batch axis: the model sees one large batch.
            together = self.subject.logits(copies.flatten(0, 1))
            self._check_independent(copies[0, :1], together)
            return together.unflatten(0, copies.shape[:2])

    def scores_of(self, logits: Tensor) -> Tensor:
        """Compute the scores, (target, copy, batch), from logits of copies, (copy, batch, …)."""
        with torch.no_grad():
            return torch.stack([target.scores_of_copies(logits) for target in self._targets])

    def _check_independent(self, first: Tensor, together: Tensor) -> None:
        """Raise `BatchMixed` if the first copy has different logits in a batch than alone; checked once."""
        # A model that mixes the images of a batch would let a mask of one image change the score of another.
        if self._is_checked or len(together) == 1:
            return
        alone, allowed = self.subject.logits(first), 1e-9 if first.dtype == torch.float64 else 1e-3
        if not bool((alone - together[:1]).abs().max() <= allowed * alone.abs().max().clamp(min=1e-12)):
            raise BatchMixed
        self._is_checked = True

    def score_of(self, logits: Tensor) -> Tensor:
        """Compute the scores, (target, batch), from logits of the images."""
        return torch.stack([target.scores(logits) for target in self._targets])

    def outcomes(self, maps: Tensor, copies: int, promised: Tensor | None = None, **details: Tensor) -> list[Outcome]:
        """Return one outcome per target, from maps (target, batch, …) and their promised sums, (target, batch).

        `details` are additional results, (target, batch, …) each.
        """
        spent = torch.full((len(self.images),), copies + 1, device=self.images.device)  # + 1: the unperturbed image
        return sharing(
            [
                Outcome(
                    relevance,
                    self.logits,
                    target.classes(self.logits),
                    None if promised is None else promised[number],
                    evaluations=spent,
                    details={name: values[number] for name, values in details.items()},
                )
                for number, (target, relevance) in enumerate(zip(self._targets, maps, strict=True))
            ]
        )


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of completed steps; the progress bar appears after one second.

    >>> with progress("counting", total=3) as update:
    ...     update(3)
    """
    started, trackers = monotonic(), list[Tracker]()
    with ExitStack() as stack:

        def update(done: int) -> None:
            # A bar for short work would only flicker.
            if not trackers and done < total and monotonic() - started > QUIET_SECONDS:
                trackers.append(stack.enter_context(track(label, total)))
            for tracker in trackers:
                tracker.update(done)

        yield update


def _is_size(size: object) -> bool:
    if isinstance(size, bool):  # an int to Python
        return False
    return isinstance(size, Integral) and int(size) >= 1


def sizes_of(name: str, sizes: Sizes, default: list[int], shape: Sequence[int], whole: int) -> tuple[int, ...]:
    """Return one size per non-batch axis; if no size is given for the channels, it is `whole`."""
    own: list[Any] = default
    if sizes is not None:
        own = list(sizes) if isinstance(sizes, tuple | list) else [sizes] * len(default)
    # an entry per input, which may be None or a tuple, does not fit a model with a single input
    if not all(_is_size(size) for size in own):
        raise ConfigError(
            f"{name} is {sizes!r} for images of shape {tuple(shape)}; pass one number, one per spatial axis, or one "
            "per axis with channels first, at least 1 each."
        )
    if len(own) not in (len(default), len(shape)):
        raise ConfigError(
            f"{name} has {len(own)} sizes for images of shape {tuple(shape)}; pass one number, {len(default)} (one per "
            f"spatial axis) or {len(shape)} (channels first)."
        )
    sides = tuple(int(size) for size in own)
    return sides if len(sides) == len(shape) else (whole, *sides)
