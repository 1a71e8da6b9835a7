"""Occlusion: the drop of the score when a sliding window hides part of the image (Zeiler and Fergus, 2014)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._hidden import FromLayer, from_layers
from pellucid.attribution._trials import Sizes, Trials, progress, sizes_of
from pellucid.core.errors import ConfigError

Window = tuple[slice, ...] | tuple[Tensor]
"""The hidden part of an image: one slice per axis, without the batch; the columns of joined inputs."""


@METHODS.register("occlusion")
@dataclass(frozen=True)
class Occlusion(Attribution):
    """R = mean over the windows that cover a pixel of f(x) − f(x with the window hidden), in logits.

    A window hides all channels unless its size includes the channels. Windows start every `stride` pixels; the last one
    of a row or column is cropped at the image border. This is captum's convention.
    """

    family: ClassVar[str] = "perturbation"
    reaches_layers: ClassVar[bool] = True
    takes_tokens: ClassVar[bool] = False
    is_model_agnostic: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much the explained logit drops when a window around each pixel is hidden"

    window: Sizes = None
    """Window size in pixels: one number, one per spatial axis, or one per axis with channels first; None: a seventh of
    the longest spatial axis, or one channel of a hidden layer."""
    stride: Sizes = None
    """Step between windows in pixels, in the same form, at most the window size; None: half the window size."""
    baseline: Baseline = 0.0
    """Value of hidden pixels: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        windows = self._all_windows(subject, images.shape[1:])
        trials = Trials(subject, images, question.targets, self.baseline)
        total, covered = images.new_zeros(len(question.targets), *images.shape), torch.zeros_like(images[:1])
        with progress("occlusion", len(windows)) as update:
            for number, (window, score) in enumerate(_scores(trials, windows), 1):
                # A window has no column twice, so no addition is lost.
                total[:, :, *window] += (trials.score - score).reshape(*score.shape, *(1 for _ in window))
                covered[:, *window] += 1
                update(number)
        # No pixel is uncovered, because the stride never exceeds the window; the columns of a held image are.
        return trials.outcomes(total / covered.clamp(min=1), len(windows))

    def _all_windows(self, subject: Subject, shape: Sequence[int]) -> list[Window]:
        """Return all windows of an image of this shape, or of each of several inputs."""
        packing = subject.packing
        if isinstance(layer := subject.model, FromLayer):
            places = torch.arange(layer.shape.numel(), device="cpu").reshape(layer.shape)
            # A channel over all positions, unless a window is given.
            whole = (1, *layer.shape[1:]) if self.window is None else self.window
            stride = whole if self.window is None and self.stride is None else self.stride
            return [(places[window].flatten(),) for window in _windows(layer.shape, whole, stride)]
        if packing is None:
            return _windows(shape, self.window, self.stride)
        options = (packing.per_part(getattr(self, name), name) for name in ("window", "stride"))
        return [
            (part.places()[window].flatten(),)
            for part, *sizes in zip(packing.parts, *options, strict=True)
            for window in _windows(part.shape or (1,), *sizes)
        ]


def _windows(shape: Sequence[int], window_sizes: Sizes, strides: Sizes) -> list[Window]:
    """Return all windows for an image of this shape (without the batch)."""
    places = shape[1:] or shape  # an input without channels has only its one axis
    default = [min(max(1, max(places) // 7), size) for size in places]
    window = sizes_of("window", window_sizes, default, shape, whole=shape[0])
    half = [max(1, size // 2) for size in window[-len(places) :]]
    stride = sizes_of("stride", strides, half, shape, whole=window[0])
    if any(not 1 <= size <= side for size, side in zip(window, shape, strict=True)) or any(
        not 1 <= step <= size for step, size in zip(stride, window, strict=True)
    ):
        raise ConfigError(
            f"the window is {window} and the stride {stride} for images of shape {tuple(shape)}; the window must "
            "fit into the image, and the stride must not exceed the window, so that every pixel is covered."
        )
    return list(product(*(_along(*sizes) for sizes in zip(shape, window, stride, strict=True))))


def _along(side: int, window: int, stride: int) -> list[slice]:
    """Return the windows along one axis.

    >>> _along(4, 3, 2)
    [slice(0, 3, None), slice(2, 4, None)]
    """
    count = -(-(side - window) // stride) + 1  # rounded up: the last window may be cropped
    return [slice(start, min(start + window, side)) for start in range(0, count * stride, stride)]


def _scores(trials: Trials, windows: Sequence[Window]) -> Iterator[tuple[Window, Tensor]]:
    """Yield each window and the scores, (target, batch), of the images with that window hidden."""
    # Several windows share a forward pass when there are few images.
    for start in range(0, len(windows), trials.at_once):
        chunk = windows[start : start + trials.at_once]
        yield from zip(chunk, trials.scores(_hidden(trials, chunk)).unbind(1), strict=True)


def _hidden(trials: Trials, windows: Sequence[Window]) -> Tensor:
    """Copy the images once per window, with that window hidden: (window, batch, …)."""
    copies = trials.images.expand(len(windows), *trials.images.shape).clone()
    for copy, window in zip(copies, windows, strict=True):
        place = (slice(None), *window)
        copy[place] = trials.baseline[place]
    return copies
