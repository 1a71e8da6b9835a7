"""The narrowest place that every path from the inputs to the outputs passes, proven on autograd's own graph."""

from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor
from torch.autograd.graph import GradientEdge

__all__ = ["Cut", "narrowest_cut"]


@dataclass(frozen=True)
class Cut:
    """One value in a graph of operations that all paths from the inputs to the outputs pass."""

    edge: GradientEdge | None
    place: int
    """Its index in the graph's order, outputs first: equal for equal graphs."""
    name: str
    shape: Size

    @property
    def units(self) -> int:
        """Numbers per image."""
        return self.shape[1:].numel()


def narrowest_cut(output: Tensor, leaves: tuple[Tensor, ...], fewer_than: int) -> Cut | None:
    r"""The cut with the fewest units per image, below `fewer_than`; of equals, the one nearest the inputs.

    A value lies on every path exactly if \(\text{paths}(\text{output} \to v) \cdot \text{paths}(v \to \text{inputs})\)
    is the number of all paths; they are counted, in whole numbers. So a shortcut around a narrow layer is seen, and the
    layer is no cut.
    """
    if output.grad_fn is None:
        return None
    order = _order(output.grad_fn)
    ends = {node for node in order if any(getattr(node, "variable", None) is leaf for leaf in leaves)}
    below: dict[Any, int] = {}
    for node in reversed(order):
        below[node] = int(node in ends) + sum(below.get(after, 0) for after, _ in node.next_functions)
    above: dict[Any, int] = dict.fromkeys(order, 0)
    above[output.grad_fn] = 1
    used: dict[Any, set[int]] = {node: set() for node in order}
    used[output.grad_fn].add(output.output_nr)
    for node in order:
        for after, number in node.next_functions:
            if after is not None and below[after]:
                above[after] += above[node] if below[node] else 0
                used[after].add(number)
    total, best = below[output.grad_fn], None
    for place, node in enumerate(order):
        if node in ends or len(used[node]) != 1 or above[node] * below[node] != total:
            continue
        (number,) = used[node]
        shape = _shape(node, number)
        if shape is None or shape[:1] != output.shape[:1] or shape[1:].numel() >= fewer_than:
            continue
        if best is None or shape[1:].numel() <= best.units:
            best = Cut(GradientEdge(node, number), place, node.name(), shape)
    return best


def _order(root: Any) -> list[Any]:
    """All nodes, each before those it hands gradients to."""
    done: dict[Any, None] = {}
    stack = [(root, False)]
    while stack:
        node, is_finished = stack.pop()
        if is_finished:
            done[node] = None
        elif node not in done:
            stack.append((node, True))
            stack.extend((after, False) for after, _ in node.next_functions if after is not None and after not in done)
    return list(reversed(done))


def _shape(node: Any, number: int) -> Size | None:
    """The shape of a node's value; None where this torch does not tell."""
    metadata = getattr(node, "_input_metadata", None)
    return Size(metadata[number].shape) if metadata and number < len(metadata) else None
