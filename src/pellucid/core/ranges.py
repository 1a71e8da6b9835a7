"""Intervals of numbers, as annotations state them. Imports no torch, so that the command line's help is quick."""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Range"]


@dataclass(frozen=True)
class Range:
    """The numbers an option may take, both ends included unless `above` or `below`.

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
        return low if self.high == math.inf else f"{low} and {high}"
