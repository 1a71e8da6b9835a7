"""The ways to compute a Jacobian, each one file: a function from a chunk of images to its rows.

`WAYS` is the table: a further way is a file and an entry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pellucid.jacobian._plan import Plan
from pellucid.jacobian._ways._part import Part
from pellucid.jacobian._ways.cut import cut, pays_cut
from pellucid.jacobian._ways.folded import folded, pays_folded
from pellucid.jacobian._ways.forward import forward, pays_forward
from pellucid.jacobian._ways.loop import loop

__all__ = ["WAYS", "Part", "Way", "choose"]


@dataclass(frozen=True)
class Way:
    """One way to fill a chunk's rows."""

    run: Callable[[Part], int]
    """Fills the rows, and returns how many backward (or tangent) passes through the whole network that took."""
    pays: Callable[[Plan], bool]
    """Whether it is the one to take, from shapes, dtype and operations alone."""


WAYS = {
    "forward": Way(forward, pays_forward),
    "cut": Way(cut, pays_cut),
    "folded": Way(folded, pays_folded),
    "loop": Way(loop, lambda _: True),
}
"""In the order in which they are asked; the first that pays is taken."""


def choose(plan: Plan) -> str:
    """The name of the way that `method="auto"` takes: a fixed rule, so that equal calls give equal bits."""
    return next(name for name, way in WAYS.items() if way.pays(plan))
