"""Intervals of numbers, used in type annotations. Does not import torch, so that `--help` stays fast."""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Range"]


@dataclass(frozen=True)
class Range:
    """Valid range of a number. Both ends are included; `above` excludes the lower one and `below` the upper one.

    >>> str(Range(0, 1, above=True)), 0 in Range(0, above=True)
    ('more than 0 and at most 1', False)
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: Any) -> bool:
        is_high_enough = self.low < number if self.above else self.low <= number
        return bool(is_high_enough and (number < self.high if self.below else number <= self.high))

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        high = f"less than {self.high:g}" if self.below else f"at most {self.high:g}"
        if self.high < math.inf and not (self.above or self.below):
            return f"between {self.low:g} and {self.high:g}"
        return low if self.high == math.inf else f"{low} and {high}"
