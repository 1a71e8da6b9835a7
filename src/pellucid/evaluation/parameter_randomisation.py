"""Parameter randomization: an explanation should change when the network is reinitialized (Adebayo et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pellucid.core.options import Count
from pellucid.core.seeding import derive_seed
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import KINDS, Kind
from pellucid.evaluation._randomised import cascade
from pellucid.evaluation._similarity import Similarity, similarities


@METRICS.register("parameter_randomisation")
@dataclass(frozen=True)
class ParameterRandomisation(Metric):
    """Similarity of the explanations of the network and of its copies with the last 1, 2, … layers reinitialized.

    The value is the mean over the cascade; the curve (`similarity` by stage, starting with the original network) is
    kept. Lower is better: 1 for a map that does not depend on the weights. A norm layer is reinitialized with the layer
    before it. Weakness: the ranks of an empty background stay equal, so on line drawings no map comes close to 0, while
    noise does so easily.

    Source: Adebayo et al., "Sanity checks for saliency maps", 2018 (cascading randomisation).
    """

    asks: ClassVar[str] = "does the map change when the weights are randomized?"
    is_higher_better: ClassVar[bool] = False
    low: ClassVar[float] = -1.0

    kind: Similarity = "spearman"
    """Similarity measure; the paper's first choice is the rank correlation."""
    is_absolute: bool = True
    """Compare absolute values."""
    stages: Count = 8
    """Maximum number of copies, spread evenly over the layers of a deeper network."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return frozenset(KINDS.values()) - ({"table"} if self.kind == "ssim" else frozenset())

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) mean similarities over the cascade."""
        models = case.shared(self, lambda: self._models(case))
        # a generator, so that only one stage's maps are in memory
        others = (method(case.images, case.targets, model) for model in models)
        if self.is_absolute:
            alike = similarities(method.relevance.abs(), (other.abs() for other in others), self.kind)
        else:
            alike = similarities(method.relevance, others, self.kind)
        curve = torch.stack([torch.ones_like(alike[0]), *alike], 1)
        return Measured(
            curve[:, 1:].mean(1),
            curves={"stage": torch.arange(curve.shape[1], device="cpu"), "similarity": curve.mean(0)},
        )

    def _models(self, case: Case) -> list[nn.Module]:
        return cascade(case.model, lambda stage: derive_seed(case.seed, "parameter_randomisation", stage), self.stages)
