"""Feature ablation: the drop of the score when one segment is replaced by the baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._segments import Segmented, Shown
from pellucid.attribution._trials import Trials, progress


@METHODS.register("feature_ablation")
@dataclass(frozen=True)
class FeatureAblation(Segmented):
    """R = f(x) − f(x with the segment replaced by the baseline), in logits, at every place of the segment.

    This is captum's convention, and that of `occlusion`: the drop is not divided among the pixels of a segment.
    Segments that can replace one another get no credit (Zeiler and Fergus, 2014; Robnik-Šikonja and Kononenko, 2008).

    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Linear(3, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0, -3.0]]))
    >>> create_analyzer("feature_ablation", model, segments=torch.tensor([0, 0, 1])).analyze(torch.ones(1, 3))
    tensor([[ 3.,  3., -3.]])
    """

    answers: ClassVar[str] = "how much the explained logit drops when each segment is hidden"

    baseline: Baseline = 0.0
    """Value of hidden pixels: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        trials = Trials(subject, images, question.targets, self.baseline)
        count = int(index.max()) + 1
        with progress("feature_ablation", count) as update:
            is_shown = ~torch.eye(count, dtype=torch.bool, device="cpu")
            drops = trials.score[:, None] - Shown(trials, index, count).scores(is_shown, update)
        return trials.outcomes(drops.movedim(1, -1)[..., index.to(images.device)].to(images), count)
