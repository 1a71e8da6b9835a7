"""Occlusion: how the score drops where a sliding window hides part of the image (Zeiler and Fergus, 2014)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._local import LocalPasses
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution._trials import Sizes, Trials, progress, sizes_of
from pellucid.core.errors import ConfigError

Window = tuple[slice, ...]
"""The part of an image that is hidden, one slice for each axis but the batch."""


@METHODS.register("occlusion")
@dataclass(frozen=True)
class Occlusion(Attribution):
    """R = mean over the windows that cover a pixel of f(x) − f(x with the window hidden), in logits.

    A window hides all channels, unless it is given with a size for the channels too. Windows start every `stride`
    pixels; the last one of a row or column is cut at the image's border. This is captum's convention.
    """

    family: ClassVar[str] = "perturbation"
    answers: ClassVar[str] = "how far the explained logit drops when the surroundings of each pixel are hidden"

    window: Sizes = None
    """Pixels along each spatial axis: one number for all of them, or one for each (or for the channels and each);
    None: a seventh of the longest."""
    stride: Sizes = None
    """Pixels from one window to the next, given likewise, at most the window's; None: half the window's."""
    baseline: float | int | Tensor = 0.0
    """What hides: a number, or a tensor that broadcasts to the images."""

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return self.attribute_each(subject, images, [target], is_certified=is_certified)[0]

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        windows = self._windows(images.shape[1:])
        trials = Trials(subject, images, targets, self.baseline)
        total, covered = images.new_zeros(len(targets), *images.shape), torch.zeros_like(images[:1])
        with progress("occlusion", len(windows)) as update:
            for number, (window, score) in enumerate(_scores(subject, trials, windows), 1):
                total[:, :, *window] += (trials.score - score).reshape(*score.shape, *(1 for _ in window))
                covered[:, *window] += 1
                update(number)
        return trials.outcomes(total / covered, len(windows))

    def _windows(self, shape: Sequence[int]) -> list[Window]:
        """The part of an image, of this shape without the batch, that each window hides."""
        places = shape[1:] or shape
        default = [min(max(1, max(places) // 7), size) for size in places]
        window = sizes_of("window", self.window, default, shape, whole=shape[0])
        half = [max(1, size // 2) for size in window[-len(places) :]]
        stride = sizes_of("stride", self.stride, half, shape, whole=window[0])
        if any(not 1 <= size <= side for size, side in zip(window, shape, strict=True)) or any(
            not 1 <= step <= size for step, size in zip(stride, window, strict=True)
        ):
            raise ConfigError(
                f"the window is {window} and the stride {stride} on images of {tuple(shape)}; a window must fit into "
                "the image, and a stride into the window, since pixels that no window hides have no relevance."
            )
        return list(product(*(_along(*sizes) for sizes in zip(shape, window, stride, strict=True))))


def _along(side: int, window: int, stride: int) -> list[slice]:
    """The windows along one axis.

    >>> _along(4, 3, 2)
    [slice(0, 3, None), slice(2, 4, None)]
    """
    count = -(-(side - window) // stride) + 1
    return [slice(start, min(start + window, side)) for start in range(0, count * stride, stride)]


def _scores(subject: Subject, trials: Trials, windows: Sequence[Window]) -> Iterator[tuple[Window, Tensor]]:
    """Each window, with the scores (target, batch) of the images when it is hidden."""
    local = _local_passes(subject, trials, windows)
    if local is not None:
        for window in windows:
            logits = local.logits(window, trials.baseline[:, *window])
            yield window, trials.scores(_hidden(trials, [window]))[:, 0] if logits is None else trials.score_of(logits)
        return
    for start in range(0, len(windows), trials.at_once):
        some = windows[start : start + trials.at_once]
        yield from zip(some, trials.scores(_hidden(trials, some)).unbind(1), strict=True)


def _local_passes(subject: Subject, trials: Trials, windows: Sequence[Window]) -> LocalPasses | None:
    """Passes over what a window can touch, where they agree with a whole pass and save half of the arithmetic.

    For fewer images, many windows in one pass are faster.
    """
    if trials.images.ndim != 4 or len(trials.images) < 16 or len(windows) < 8:
        return None
    local, window = LocalPasses(subject, trials.images), windows[len(windows) // 2]
    found = local.logits(window, trials.baseline[:, *window]) if local.is_possible else None
    if found is None or local.share > 0.5:
        return None
    with torch.no_grad():
        whole = subject.logits(_hidden(trials, [window])[0])
    within = (1e-9 if whole.dtype == torch.float64 else 1e-4) * whole.abs().max()
    return local if bool(((found - whole).abs() <= within).all()) else None


def _hidden(trials: Trials, windows: Sequence[Window]) -> Tensor:
    """(window, batch, …): the images, with one window hidden in each copy."""
    copies = trials.images.expand(len(windows), *trials.images.shape).clone()
    for copy, window in zip(copies, windows, strict=True):
        place = (slice(None), *window)
        copy[place] = trials.baseline[place]
    return copies
