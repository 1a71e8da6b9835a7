"""The metric contract: a frozen dataclass of options with one method."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, ClassVar

from torch import Tensor

from pellucid.core.options import Options
from pellucid.evaluation import METRICS
from pellucid.evaluation._case import KINDS, Case, Explainer, Kind

__all__ = ["TINY", "Measured", "Metric"]

TINY = 1e-300
"""Smallest denominator: avoids 0 / 0 for maps of zeros, and changes no other quotient in double precision."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The result of a metric for one method."""

    values: Tensor
    """(image,): one value per image; NaN if the metric is undefined for an image."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """(image,) each: secondary values."""
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    """(point,) each: means over the images, along the axis that the metric's docstring names."""


@dataclass(frozen=True)
class Metric(Options):
    """A metric of explanation quality; its fields are its options, validated against their annotations on construction.

    A metric is registered under its file's name. It draws random numbers only from `case.generator` and `case.draw`, so
    that all methods see the same ones, and keeps what does not depend on the method with `case.shared`.

    >>> import torch
    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> @dataclass(frozen=True)
    ... class TotalRelevance(Metric):
    ...     def measure(self, case, method):
    ...         return Measured(method.pixels.sum((1, 2)))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> case = Case(model, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]))
    >>> TotalRelevance().measure(case, Explainer(create_analyzer("input_x_gradient", model), case)).values
    tensor([0., 0., 0.])
    """

    asks: ClassVar[str]
    """The question that the metric answers, in one line."""
    is_higher_better: ClassVar[bool]
    low: ClassVar[float] = 0.0
    """Smallest possible value."""
    high: ClassVar[float] = 1.0
    """Largest possible value."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Required inputs besides the images: `masks`, `training`."""
    won_by: ClassVar[frozenset[str]] = frozenset()
    """Controls that win by construction, and are excluded as baselines for this metric."""

    @property
    def accepts(self) -> frozenset[Kind]:
        """Kinds of input that the metric can measure with these options; by default all."""
        return frozenset(KINDS.values())

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return one value per image of `case` for one method."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """Describe the metric in JSON values."""
        return {
            "name": METRICS.name_of(type(self)),
            "options": asdict(self),
            "asks": self.asks,
            **_documented(type(self)),
            "is_higher_better": self.is_higher_better,
            "low": self.low if isfinite(self.low) else None,
            "high": self.high if isfinite(self.high) else None,
            "won_by": sorted(self.won_by),
            "accepts": sorted(self.accepts),
        }


def _documented(metric: type[Metric]) -> dict[str, str]:
    """Return the definition, the weakness and the source in a metric's docstring; empty where it states none."""
    text = inspect.getdoc(metric) or ""
    # a dataclass without a docstring gets its signature as one
    paragraphs = [] if text.startswith(f"{metric.__name__}(") else [" ".join(p.split()) for p in text.split("\n\n")]
    return {
        "definition": paragraphs[0] if paragraphs else "",
        "weakness": next((p.split("Weakness: ")[1] for p in paragraphs if "Weakness: " in p), ""),
        "source": next((p.removeprefix("Source: ") for p in paragraphs if p.startswith("Source: ")), ""),
    }
