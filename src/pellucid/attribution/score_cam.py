"""Score-CAM: feature maps weighted by the scores of images masked with them (Wang et al., 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._class_activation import FeatureMaps, check_images
from pellucid.attribution._layer_values import read_values
from pellucid.attribution._trials import Trials, progress
from pellucid.core.options import Count


@METHODS.register("score_cam")
@dataclass(frozen=True)
class ScoreCam(FeatureMaps):
    """R = ReLU(Σₖ αₖ Aₖ) with α = softmax over the channels of f(x ⊙ Hₖ) − f(x₀) (algorithm 1 of the paper).

    The mask Hₖ is the map Aₖ, upsampled to the image and scaled to [0, 1]; that of a constant map is 0. The score f is
    the explained logit; for the class probability, pass `target=lambda logits: logits.softmax(1)[:, 3]`. It needs no
    gradient, but one forward pass per channel.

    Increases that differ by far less than one logit have nearly equal weights, so the maps of two classes can then also
    be nearly equal.
    """

    answers: ClassVar[str] = "which regions of a layer's feature maps keep the explained logit high on their own"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    top_channels: Count | None = None
    """Number of channels to use, those with the largest mean |A| of each image; None: all. The others have weight 0."""
    weights: Literal["softmax", "increase"] = "softmax"
    """Weight of a channel: softmax over the channels, in which f(x₀) cancels, or the increase of the score from the
    baseline image itself (equation 5 of the paper)."""
    baseline: Baseline = 0.0
    """Baseline image x₀, which fills the masked parts: a number, a tensor that broadcasts to one image, or one row per
    image, (batch, …)."""

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        check_images(images)
        layer, output, _ = read_values(subject, images, self.layer)
        values = self.arranged(output, layer, images)
        trials = Trials(subject, images, question.targets, self.baseline)
        kept = self._kept(values)
        scores = self._scores(trials, kept)
        is_increase = self.weights == "increase"
        weights = scores - trials.scores(trials.baseline[None]) if is_increase else scores.softmax(1)
        passes = kept.shape[1] + is_increase
        return self.outcomes(trials, torch.einsum("tkb,bk...->tb...", weights, kept), layer, values, passes)

    def _kept(self, values: Tensor) -> Tensor:
        """Return the channels to use, (batch, channel, …)."""
        count = values.shape[1]
        if self.top_channels is None or self.top_channels >= count:
            return values
        chosen = values.flatten(2).abs().mean(2).topk(self.top_channels, dim=1).indices
        return values.flatten(2).take_along_dim(chosen[..., None], 1).unflatten(2, values.shape[2:])

    def _scores(self, trials: Trials, values: Tensor) -> Tensor:
        """Compute the scores, (target, channel, batch), of the images masked by each channel."""
        images, parts = trials.images, []
        with progress("score_cam", values.shape[1]) as update:
            for start in range(0, values.shape[1], trials.at_once):
                masks = masks_of(values[:, start : start + trials.at_once], images)
                # (batch, channel, …) to (channel, batch, 1, …): the channels are copies of the images
                copies = torch.lerp(trials.baseline, images, masks.transpose(0, 1)[:, :, None])
                parts.append(trials.scores(copies))
                update(min(start + trials.at_once, values.shape[1]))
        return torch.cat(parts, 1)


def masks_of(maps: Tensor, images: Tensor) -> Tensor:
    """Upsample maps, (batch, channel, …), to the images, and scale each to [0, 1]; a constant map becomes 0.

    >>> masks_of(torch.tensor([[[1.0, 3.0], [2.0, 2.0]]]), torch.zeros(1, 3, 2))
    tensor([[[0., 1.],
             [0., 0.]]])
    """
    mode = ("linear", "bilinear", "trilinear")[images.ndim - 3]
    large = F.interpolate(maps, size=images.shape[2:], mode=mode, align_corners=False)
    places = tuple(range(2, large.ndim))
    low, high = large.amin(places, keepdim=True), large.amax(places, keepdim=True)
    # Checked on the maps before upsampling, which may add rounding to a constant that scaling would amplify.
    is_constant = maps.amin(places, keepdim=True) == maps.amax(places, keepdim=True)
    return ((large - low) / (high - low).masked_fill(is_constant, 1)).masked_fill(is_constant, 0)
