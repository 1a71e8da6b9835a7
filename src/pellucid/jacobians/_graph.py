"""Search of autograd's graph for the narrowest value through which every path from the inputs to the outputs passes."""

from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor
from torch.autograd.graph import GradientEdge

__all__ = ["Cut", "Point", "leading_to", "narrowest_cut", "passages"]


@dataclass(frozen=True, eq=False)
class Point:
    """A result of a node, by which all paths from the inputs to the outputs pass."""

    node: Any
    number: int
    place: int
    """Index of the node in topological order, outputs first."""


@dataclass(frozen=True)
class Cut:
    """A value in the autograd graph through which all paths from the inputs to the outputs pass."""

    edge: GradientEdge | None
    place: int
    """Index of the node in topological order, outputs first; equal for equal graphs."""
    name: str
    shape: Size

    @property
    def units(self) -> int:
        """Number of values per image."""
        return self.shape[1:].numel()


def narrowest_cut(output: Tensor, leaves: tuple[Tensor, ...], fewer_than: int) -> Cut | None:
    r"""Return the cut with the fewest units per image, below `fewer_than`; if several, the one nearest the inputs.

    A value v lies on every path if and only if
    \(\text{paths}(\text{output} \to v) \cdot \text{paths}(v \to \text{inputs})\) equals the total number of paths.
    Paths are counted exactly, in integers, so a shortcut around a narrow layer disqualifies that layer. Returns None if
    there is no such cut.
    """
    if output.grad_fn is None:
        return None
    best = None
    for point in passages(output, *leaves)[1]:
        shape = _shape(point.node, point.number)
        if shape is None or shape[:1] != output.shape[:1] or shape[1:].numel() >= fewer_than:
            continue
        # the order runs toward the inputs, so the last of equally narrow cuts is nearest to them
        if best is None or shape[1:].numel() <= best.units:
            best = Cut(GradientEdge(point.node, point.number), point.place, point.node.name(), shape)
    return best


def passages(output: Tensor, *leaves: Tensor) -> tuple[list[Any], list[Point]]:
    """Return all nodes, each before those it passes gradients to, and the values that every path passes through."""
    order = _order(output.grad_fn)
    ends = {node for node in order if any(getattr(node, "variable", None) is leaf for leaf in leaves)}
    # number of paths from each node to the inputs
    below: dict[Any, int] = {}
    for node in reversed(order):
        below[node] = int(node in ends) + sum(below.get(successor, 0) for successor, _ in node.next_functions)
    # number of paths from the output to each node, and the node's results that those paths use
    above: dict[Any, int] = dict.fromkeys(order, 0)
    above[output.grad_fn] = 1
    used: dict[Any, set[int]] = {node: set() for node in order}
    assert output.grad_fn is not None
    used[output.grad_fn].add(output.output_nr)
    for node in order:
        for successor, number in node.next_functions:
            if successor is not None and below[successor]:
                above[successor] += above[node] if below[node] else 0
                used[successor].add(number)
    total = below[output.grad_fn]
    # only a node with a single used result can be cut at one edge
    return order, [
        Point(node, next(iter(used[node])), place)
        for place, node in enumerate(order)
        if node not in ends and len(used[node]) == 1 and above[node] * below[node] == total
    ]


def leading_to(root: Any, leaf: Tensor) -> frozenset[Any]:
    """Return all nodes below `root` that depend on a leaf, itself included."""
    leading: set[Any] = set()
    for node in reversed(_order(root)):
        if getattr(node, "variable", None) is leaf or any(source in leading for source, _ in node.next_functions):
            leading.add(node)
    return frozenset(leading)


def _order(root: Any) -> list[Any]:
    """Return all nodes in topological order, each before the nodes it passes gradients to."""
    # iterative depth-first search, because deep networks would exceed Python's recursion limit
    done: dict[Any, None] = {}
    stack = [(root, False)]
    while stack:
        node, is_finished = stack.pop()
        if is_finished:
            done[node] = None
        elif node not in done:
            stack.append((node, True))
            stack.extend(
                (successor, False)
                for successor, _ in node.next_functions
                if successor is not None and successor not in done
            )
    return list(reversed(done))


def _shape(node: Any, number: int) -> Size | None:
    """Return the shape of a node's result, or None if this version of torch does not expose it."""
    metadata = getattr(node, "_input_metadata", None)
    return Size(metadata[number].shape) if metadata and number < len(metadata) else None
