"""Feature permutation: the drop of the score when one segment comes from another input (Breiman, 2001)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._references import WithReferences, checked_references
from pellucid.attribution._segments import Segmented
from pellucid.attribution._trials import Trials, progress
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("feature_permutation")
@dataclass(frozen=True)
class FeaturePermutation(Segmented, WithReferences):
    """R = f(x) − mean over references x′ of f(x with the segment of x′), in logits, at every place of the segment.

    The permutation importance of Breiman (2001), for one input at a time. Other implementations permute a segment
    within the batch, so that a map depends on the rest of the batch. Here the values come from `references`, or from
    the data passed to `fit`; `fit([images])` permutes within a batch. Each segment takes the same `samples` references
    for all inputs.

    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> others = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> create_analyzer("feature_permutation", model, references=others).analyze(torch.ones(1, 2))
    tensor([[0.5000, 1.0000]])
    """

    answers: ClassVar[str] = "how much the explained logit drops when each segment comes from another image"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    key: ClassVar[str] = "feature_permutation"

    samples: Count = 10
    """Number of references for each segment, drawn without replacement; all, if there are no more."""
    seed: int = 0

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        references = checked_references(self.key, self.references, images)
        trials = Trials(subject, images, question.targets, 0.0)
        count, samples = int(index.max()) + 1, min(self.samples, len(references))
        source = generator(self.seed, self.key)
        chosen = torch.stack(
            [torch.randperm(len(references), generator=source, device="cpu")[:samples] for _ in range(count)]
        ).flatten()
        replaced = torch.arange(count, device="cpu").repeat_interleave(samples)
        place, scores = index.to(images.device), []
        with progress(self.key, len(chosen)) as update:
            for start in range(0, len(chosen), trials.at_once):
                which = slice(start, start + trials.at_once)
                is_other = (place == replaced[which].to(place.device).reshape(-1, *(1 for _ in place.shape)))[:, None]
                scores.append(trials.scores(torch.where(is_other, references[chosen[which]][:, None], images)))
                update(min(start + trials.at_once, len(chosen)))
        drops = trials.score[:, None] - torch.cat(scores, 1).unflatten(1, (count, samples)).mean(2)
        return trials.outcomes(drops.movedim(1, -1)[..., place].to(images), len(chosen))
