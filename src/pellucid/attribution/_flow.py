"""The flow of relevance through a network: how much arrives at each layer, and which branch carries it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.attribution._explanation import Explanation
from pellucid.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FlowRow", "RelevanceFlow", "total_of"]


@dataclass(frozen=True, eq=False)
class FlowRow:
    """Relevance that arrives at one layer, or that one branch carries."""

    junction: str
    """Operation at which paths meet, as `module: operation`; for a layer, its name."""
    branch: str
    """The branch; empty for a layer."""
    relevance: Tensor
    """(batch,): the sum over the branch."""
    total: Tensor
    """(batch,): the relevance that the explanation started with, such as the logit; NaN if unknown."""

    @property
    def share(self) -> Tensor:
        """(batch,): relevance divided by the total. Shares may be negative or above 1, since relevance has a sign."""
        return _divided(self.relevance, self.total)

    @property
    def mean_share(self) -> float:
        """Mean relevance divided by the mean total, which images with a total near zero do not dominate."""
        return float(_divided(self.relevance.mean(), self.total.mean()))


@dataclass(frozen=True, eq=False, repr=False)
class RelevanceFlow:
    """Relevance at layers, and its split among the branches that meet above them: skip and block, or attention heads.

    A junction is an operation with several inputs that depend on the image: the sum of a skip connection and a block,
    a concatenation, or the product of attention weights and values, which also splits into heads. Only methods with
    rules, such as LRP, define how junctions split; others only have rows of layers.

    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    >>> _ = [nn.init.ones_(weight) for weight in model.parameters()]
    >>> flow = create_analyzer("lrp.epsilon", model).explain(torch.ones(2, 4), 1, to=["0", "1"]).flow()
    >>> [(row.junction, round(row.mean_share, 3)) for row in flow.rows]
    [('0', 1.0), ('1', 1.0)]
    """

    rows: tuple[FlowRow, ...]
    method: str
    unit: str

    @staticmethod
    def of(explanations: "Sequence[Explanation]") -> "RelevanceFlow":
        """Collect the rows of explanations at several layers of the same call.

        Raises `ConfigError` for explanations of the input, and for methods that do not distribute the logit.
        """
        first = explanations[0]
        if not first.layer:
            raise ConfigError("the flow of relevance is known for hidden layers only; call explain with to='layer'.")
        if first.unit not in ("logits", "activation", "units of the score"):
            raise ConfigError(
                f"the method {first.method!r} does not distribute the logit, so nothing flows; choose one that does, "
                "such as 'lrp.epsilon'."
            )
        if first.target.ndim > 1:
            raise ShapeError("the flow of relevance is that of one target; explain a single class instead of 'all'.")
        total = total_of(first)
        rows = [FlowRow(one.layer, "", one.relevance.flatten(1).sum(1), total) for one in explanations]
        rows += [FlowRow(*key, amount, total) for key, amount in first.branches.items()]
        return RelevanceFlow(tuple(rows), first.method, first.unit)

    @property
    def junctions(self) -> dict[str, list[FlowRow]]:
        """The rows of branches by junction, in the order of the forward pass."""
        found: dict[str, list[FlowRow]] = {}
        for row in self.rows:
            if row.branch:
                found.setdefault(row.junction, []).append(row)
        return found

    def __repr__(self) -> str:
        """Return a table of means over the images, and the shares of these means."""
        names = [f"{row.junction} ← {row.branch}" if row.branch else row.junction for row in self.rows]
        width = max(map(len, names))
        lines = [
            f"  {name:<{width}}  {float(row.relevance.mean()):>10.4g}  {row.mean_share:>8.1%}"
            for name, row in zip(names, self.rows, strict=True)
        ]
        heading = f"  {'layer, or junction ← branch':<{width}}  {'relevance':>10}  {'share':>8}"
        return "\n".join([f"RelevanceFlow({self.method}, {self._count}", heading, *lines, ")"])

    @property
    def _count(self) -> str:
        images = len(self.rows[0].total)
        return f"mean of {images} images" if images > 1 else "one image"

    def figure(self, image: int | None = None) -> "Figure":
        """Draw the share of each branch at each junction, for one image, or of the means over all.

        Raises `ConfigError` if no junction lies above the layers, and for an `image` that is not the index of one.
        """
        from pellucid.plots.flow import flow_figure

        if not self.junctions:
            raise ConfigError(
                "no paths meet above these layers, or the method has no rules for junctions; pass an earlier layer, "
                "and a method such as 'lrp.epsilon'."
            )
        images = len(self.rows[0].total)
        if image is not None and not 0 <= image < images:
            raise ConfigError(f"image is {image}, but {images} were explained; give an index from 0 to {images - 1}.")
        shares = {
            junction: [(row.branch, row.mean_share if image is None else float(row.share[image])) for row in rows]
            for junction, rows in self.junctions.items()
        }
        of = self._count if image is None else f"image {image}"
        return flow_figure(shares, f"Flow of relevance by {self.method}, {of}")


def _divided(part: Tensor, total: Tensor) -> Tensor:
    return part / torch.where(total == 0, torch.finfo(total.dtype).tiny, total)


def total_of(one: Explanation) -> Tensor:
    """Return the relevance that an explanation started with, (batch,); NaN if it is unknown."""
    if one.expected is None:
        if one.logits.ndim != 2 or int(one.target.min()) < 0:  # a custom score, or a hidden unit
            return one.relevance.new_full((len(one.relevance),), torch.nan)
        against, own = one.details.get("against"), one.logits.gather(1, one.target[:, None])[:, 0]
        return own if against is None else own - one.logits.gather(1, against[:, None])[:, 0]
    bypassed = one.details.get("bypassed", torch.zeros_like(one.expected))
    return one.expected + sum(one.absorbed.values(), torch.zeros_like(one.expected)) + bypassed
