"""Random logit test: another class should have another explanation (Sixt et al., 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import KINDS, Kind
from pellucid.evaluation._similarity import Similarity, similarity


@METRICS.register("random_logit")
@dataclass(frozen=True)
class RandomLogit(Metric):
    """Similarity of the explanations of the explained class and of another one, drawn at random for each image.

    Lower is better: 1 for a map that does not depend on the class. Weakness: two classes may really depend on the same
    pixels, and a noisy map is dissimilar to any other.

    Source: Sixt et al., "When explanations lie", 2020 (random logit test).
    """

    asks: ClassVar[str] = "does another class have another map?"
    is_higher_better: ClassVar[bool] = False
    low: ClassVar[float] = -1.0

    kind: Similarity = "ssim"
    """Similarity measure; the paper uses the structural similarity."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return frozenset(KINDS.values()) - ({"table"} if self.kind == "ssim" else frozenset())

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) similarities."""
        classes = case.logits.shape[1]
        draws, count = case.generator("random_logit"), len(case.images)
        # an offset of at least 1 never draws the explained class itself
        # a single class has no other one and keeps itself; `randint` still needs a nonempty range
        steps = torch.randint(1, max(classes, 2), (count,), generator=draws, device="cpu")
        others = (case.targets + steps.to(case.targets)) % classes
        return Measured(similarity(method.relevance, method(case.images, others), self.kind))
