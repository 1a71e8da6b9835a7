"""The stored explanation of one image."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["StoredExplanation"]


@dataclass(frozen=True, eq=False)
class StoredExplanation:
    """One image of a store: its prediction, its maps by method, and the residuals of their sums.

    An image without results has an `error`, and neither logits nor maps.
    """

    index: int
    """Position in the store."""
    key: str
    """Identifier in the data set, such as a path."""
    error: str = ""
    """Reason why there are no results; empty if there are."""
    label: int | None = None
    """True class; None if unknown."""
    label_name: str = ""
    prediction: int | None = None
    """Class with the largest logit; None without results."""
    prediction_name: str = ""
    target: int | None = None
    """Explained class; None without results, and in stores that explain all classes."""
    logits: np.ndarray | None = None
    """(class,) logits; None without results."""
    relevance: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map (channel, height, width) by method; (class, channel, height, width) in stores that explain all classes."""
    expected: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    """Promised sum by method, in logits, or (class,) sums; only for methods that promise one."""
    residual: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    """Sum of the map minus the promised sum, by method, as for `expected`."""

    @property
    def is_correct(self) -> bool | None:
        """True if prediction and label agree; None if one of them is missing."""
        return None if self.label is None or self.prediction is None else self.label == self.prediction

    def __repr__(self) -> str:
        facts = [f"key={self.key!r}"]
        if self.label is not None:
            facts.append(f"label={self.label_name or self.label!r}")
        if self.error:
            facts.append(f"error={self.error!r}")
        else:
            facts.append(f"prediction={self.prediction_name or self.prediction!r}")
            facts.append(f"methods={', '.join(self.relevance) or 'none'}")
        return f"StoredExplanation({self.index}, {', '.join(facts)})"
