"""Algorithms for computing a Jacobian, one per file: each is a function that fills the rows of a chunk of images.

To add an algorithm, write a file and add an entry to `ALGORITHMS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pellucid.jacobians._algorithms._part import Part
from pellucid.jacobians._algorithms.cut import cut, pays_cut
from pellucid.jacobians._algorithms.folded import folded, pays_folded
from pellucid.jacobians._algorithms.forward import forward, pays_forward
from pellucid.jacobians._algorithms.loop import loop
from pellucid.jacobians._algorithms.native import native, pays_native
from pellucid.jacobians._plan import Plan

__all__ = ["ALGORITHMS", "Algorithm", "Part", "choose"]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that fills a chunk's rows."""

    run: Callable[[Part], int]
    """Fill the rows and return the number of backward (or tangent) passes through the whole network."""
    pays: Callable[[Plan], bool]
    """Return True if the algorithm is worthwhile, judging from shapes, dtype and operations alone."""


ALGORITHMS = {
    "forward": Algorithm(forward, pays_forward),
    "native": Algorithm(native, pays_native),
    "cut": Algorithm(cut, pays_cut),
    "folded": Algorithm(folded, pays_folded),
    "loop": Algorithm(loop, lambda _: True),
}
"""Algorithms in order of preference; `choose` takes the first that is worthwhile."""


def choose(plan: Plan) -> str:
    """Return the algorithm for `method="auto"`, by a fixed rule so that equal calls give bitwise equal results."""
    return next(name for name, algorithm in ALGORITHMS.items() if algorithm.pays(plan))
