"""Correction of p-values for multiple comparisons."""

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm, 1979).

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        # the running maximum keeps the adjusted values in the order of the original ones
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted
