"""Ablation-CAM: feature maps weighted by the drop of the score without each of them (Desai and Ramaswamy, 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._class_activation import FeatureMaps, check_images
from pellucid.attribution._layer_values import read_values, replace_values
from pellucid.attribution._layers import Layer
from pellucid.attribution._trials import Trials, progress
from pellucid.attribution._upper import Upper, upper_part
from pellucid.engine.axes import BatchMixed

_COPIES = 8
"""Number of ablated copies of an image in one pass of the layers above. More would save little, and each costs two
complete passes for checks."""


@METHODS.register("ablation_cam")
@dataclass(frozen=True)
class AblationCam(FeatureMaps):
    """R = ReLU(Σₖ wₖ Aₖ) with wₖ = f(x) − f(x with Aₖ set to zero), in logits.

    Equation 3 of the paper also divides wₖ by f(x); this factor, one number per image, is omitted, because a negative
    logit would flip the map. For tokens, those of the image lose the feature, and class tokens keep it. It needs no
    gradient, but one evaluation of the layers above per channel; the layers below run once if that gives the same
    logits.
    """

    answers: ClassVar[str] = "which regions of a layer's feature maps the explained logit drops without"

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        check_images(images)
        layer, output, _ = read_values(subject, images, self.layer)
        values = self.arranged(output, layer, images)
        trials = Trials(subject, images, question.targets, 0.0)
        drops = trials.score[:, None] - _ablated(subject, trials, layer, output, self._members(output, layer, images))
        plain = torch.einsum("tkb,bk...->tb...", drops, values)
        return self.outcomes(trials, plain, layer, values, values.shape[1])

    def _members(self, output: Tensor, layer: Layer, images: Tensor) -> Tensor:
        """Return the places of each channel's values in the output of one image, (channel, position)."""
        # numbered in float64, which holds all of them exactly, because a reshape function may expect floats
        places = torch.arange(output[0].numel(), dtype=torch.float64, device=output.device)
        return self.arranged(places.view_as(output[:1]), layer, images[:1])[0].flatten(1).long()


def _ablated(subject: Subject, trials: Trials, layer: Layer, output: Tensor, members: Tensor) -> Tensor:
    """Compute the scores, (target, channel, batch), without each channel of a layer's output."""
    count = len(members)
    copies = min(trials.at_once, _COPIES, count)
    is_worthwhile = count > 4 * copies  # otherwise, recording and checking the upper part costs more than it saves
    # Copies and images share the batch axis: the first rows are the first copy of each image.
    images, outputs = (x.repeat(copies, *(1 for _ in x.shape[1:])) for x in (trials.images, output))

    def without(channels: Sequence[int | slice]) -> Tensor:
        """Return the outputs with some channels of each copy set to zero; further copies stay unchanged."""
        flat = outputs.clone().view(copies, len(output), -1)
        for copy, channel in zip(flat, channels, strict=False):
            copy[:, members[channel].flatten()] = 0
        return flat.view_as(outputs)

    run: Upper = partial(replace_values, subject, images, layer)
    plain = trials.logits
    if is_worthwhile:
        run, plain = upper_part(subject, images, layer, outputs, without([slice(None, None, 2)] * copies))
    elif len(images) > 1:
        plain = run(outputs)
    _check_independent(plain, trials.logits)
    parts = []
    with progress("ablation_cam", count) as update:
        for start in range(0, count, copies):
            channels = range(start, min(start + copies, count))
            logits = run(without(channels)).unflatten(0, (copies, -1))
            parts.append(trials.scores_of(logits[: len(channels)]))
            update(channels.stop)
    return torch.cat(parts, 1)


def _check_independent(together: Tensor, logits: Tensor) -> None:
    """Raise `BatchMixed` if copies of the images have different logits in a batch."""
    allowed = 1e-9 if logits.dtype == torch.float64 else 1e-3
    if not bool((together[: len(logits)] - logits).abs().max() <= allowed * logits.abs().max().clamp(min=1e-12)):
        raise BatchMixed
