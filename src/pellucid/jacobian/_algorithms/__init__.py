"""The ways to compute a Jacobian, each one file: a function from a chunk of images to its rows.

`ALGORITHMS` is the table: a further way is a file and an entry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pellucid.jacobian._algorithms._part import Part
from pellucid.jacobian._algorithms.cut import cut, pays_cut
from pellucid.jacobian._algorithms.folded import folded, pays_folded
from pellucid.jacobian._algorithms.forward import forward, pays_forward
from pellucid.jacobian._algorithms.loop import loop
from pellucid.jacobian._plan import Plan

__all__ = ["ALGORITHMS", "Algorithm", "Part", "choose"]


@dataclass(frozen=True)
class Algorithm:
    """One way to fill a chunk's rows."""

    run: Callable[[Part], int]
    """Fills the rows, and returns how many backward (or tangent) passes through the whole network that took."""
    pays: Callable[[Plan], bool]
    """Whether it is the one to take, from shapes, dtype and operations alone."""


ALGORITHMS = {
    "forward": Algorithm(forward, pays_forward),
    "cut": Algorithm(cut, pays_cut),
    "folded": Algorithm(folded, pays_folded),
    "loop": Algorithm(loop, lambda _: True),
}
"""In the order in which they are asked; the first that pays is taken."""


def choose(plan: Plan) -> str:
    """The name of the way that `method="auto"` takes: a fixed rule, so that equal calls give equal bits."""
    return next(name for name, way in ALGORITHMS.items() if way.pays(plan))
