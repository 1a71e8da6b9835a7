"""What every metric is: frozen knobs and one verb."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from pellucid.evaluation._case import Case, Explainer

__all__ = ["Measured", "Metric"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric found for one method."""

    values: Tensor
    """(image,): one number per image; NaN where the metric says nothing of an image."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """(image,) each: other numbers worth a look."""
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    """(point,) each: means over the images, along what the metric's docstring says."""


@dataclass(frozen=True)
class Metric:
    """A measure of explanations; its fields are its options."""

    asks: ClassVar[str]
    """The question it answers, in one line."""
    is_higher_better: ClassVar[bool]
    low: ClassVar[float] = 0.0
    """The least value there can be."""
    high: ClassVar[float] = 1.0
    """The largest value there can be."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Of `masks` and `training`, what must be given beside the images."""
    won_by: ClassVar[frozenset[str]] = frozenset()
    """Controls that win by construction, and are no yardstick for this metric."""

    def measure(self, case: Case, method: Explainer) -> Measured:
        """One value per image of `case` for one method."""
        raise NotImplementedError
