"""Explanations of the same inputs at several layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pellucid.attribution._display import Pictured
from pellucid.attribution._explanation import Explanation
from pellucid.core.errors import UnknownName

if TYPE_CHECKING:
    from pellucid.attribution._flow import RelevanceFlow

__all__ = ["LayerExplanations"]


class LayerExplanations(Mapping[str, Explanation], Pictured):
    """Explanations of the same inputs at several layers, by the name of the layer."""

    def __init__(self, explanations: Sequence[Explanation]) -> None:
        self._explanations = {one.layer: one for one in explanations}

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """The explanations, in the order of the layers."""
        return tuple(self._explanations.values())

    @property
    def relevance(self) -> dict[str, Tensor]:
        """The relevance maps by layer, each in the shape of the layer's output."""
        return {layer: one.relevance for layer, one in self._explanations.items()}

    def flow(self) -> "RelevanceFlow":
        """Return the relevance of each layer, and of each branch where paths meet, as a table and a figure."""
        from pellucid.attribution._flow import RelevanceFlow

        return RelevanceFlow.of(self.explanations)

    def __getitem__(self, layer: str) -> Explanation:
        """Return the explanation at a layer; raises `UnknownName` with the names of all explained layers."""
        if layer not in self._explanations:
            raise UnknownName("explained layer", layer, self._explanations)
        return self._explanations[layer]

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._explanations)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the layers."""
        return iter(self._explanations)

    def __repr__(self) -> str:
        """Return one line per layer."""
        lines = [f"  {layer}: {tuple(one.relevance.shape)}" for layer, one in self._explanations.items()]
        return "\n".join([f"LayerExplanations({self.explanations[0].method}", *lines, ")"])
