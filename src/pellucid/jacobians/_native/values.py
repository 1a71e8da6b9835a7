"""Parts of a program: slots, steps, edges and operations, as read from autograd's graph."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["Arrival", "Edge", "Images", "Layer", "Layout", "Operation", "Step", "Unsupported", "Window", "table_step"]


MOST_ELEMENTS = 2**31 - 2
"""Maximum number of elements of a value per image: the kernel counts them in 32 bits, plus one for dropped elements."""


class Unsupported(Exception):
    """A node of the graph that the native kernel cannot run."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a chunk: their number, and the dtype and shapes of values."""

    count: int
    dtype: torch.dtype
    leading: frozenset[Any]
    """Nodes that depend on the input. Others, such as parameters that require gradients, count as constants."""
    shapes: dict[tuple[Any, int], tuple[int, ...]] = field(default_factory=dict)
    """Shapes by node and number, each read once: the attributes of autograd's nodes are slow."""

    def sources(self, node: Any) -> list[tuple[Any, int]]:
        """Return a node's inputs, each as the node that computed it and its number there; (None, 0) for constants."""
        return [source if source[0] in self.leading else (None, 0) for source in node.next_functions]

    def shape(self, node: Any, number: int = 0) -> tuple[int, ...]:
        """Return the shape of a node's result for one image, (rows, …), where `rows` is 1 unless axes were merged.

        Raises `Unsupported` for a result that is not a block of memory per image.
        """
        known = self.shapes.get((node, number))
        if known is not None:
            return known
        if node is None:
            raise Unsupported("an input without a gradient")
        metadata = getattr(node, "_input_metadata", None)
        if not metadata or number >= len(metadata):
            raise Unsupported(type(node).__name__)
        entry = metadata[number]
        shape = tuple(entry.shape)
        if entry.dtype != self.dtype:
            raise Unsupported(f"{type(node).__name__} in {entry.dtype}")
        if not shape or shape[0] % self.count:
            raise Unsupported(f"{type(node).__name__}, which merges images")
        shape = (shape[0] // self.count, *shape[1:])
        if prod(shape) > MOST_ELEMENTS:
            raise Unsupported(f"{type(node).__name__} of more than {MOST_ELEMENTS} elements per image")
        self.shapes[node, number] = shape
        return shape

    def size(self, node: Any, number: int = 0) -> int:
        """Return the number of elements of a node's result for one image."""
        return prod(self.shape(node, number))

    def data(self, tensor: Tensor) -> Tensor:
        """Return a saved tensor as an array in row-major order. Raises `Unsupported` for other kinds of tensors."""
        return self.strided(tensor).contiguous()

    def strided(self, tensor: Tensor) -> Tensor:
        """Return a saved tensor as it is in memory. Raises `Unsupported` for other kinds of tensors."""
        if type(tensor) is not Tensor and not isinstance(tensor, torch.nn.Parameter):
            raise Unsupported(type(tensor).__name__)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg():
            raise Unsupported(f"a {tensor.layout} tensor on {tensor.device}")
        return tensor.detach()


@dataclass(frozen=True, eq=False)
class Step:
    """A step of a route, which sends each element to one element below, with a factor, or drops it."""

    kind: str
    """"keep_positive", "multiply", "scale", "pool" or "table"."""
    data: Tensor
    """Values, indices of winners, or a table."""
    image_step: int = 0
    """Elements of `data` per image; 0 if all images share it."""
    outer: int = 1
    """`pool`: positions of a channel above; `scale`: number of scales."""
    inner: int = 1
    """`pool`: positions of a channel below; `scale`: elements per scale."""
    is_merging: bool = False
    """True if several elements may arrive at one."""
    size: int = 0
    """`table`: number of elements below."""


def table_step(index: Tensor, size: int) -> Step:
    """Return the step that sends element e to `index.flatten()[e]` out of `size`, or drops it at -1."""
    table = index.reshape(-1).to(torch.int32)
    kept = table[table >= 0]
    is_merging = len(kept) > size or len(kept.unique()) < len(kept)
    return Step("table", table, is_merging=is_merging, size=size)


@dataclass(frozen=True, eq=False)
class Layout:
    """Slot of an operation: element e has channel c and position p with e = c · channel_step + p · position_step."""

    channels: int
    positions: int = 1
    channel_step: int = 1
    position_step: int = 0


@dataclass(frozen=True, eq=False)
class Arrival:
    """An input of an operation: the node that computed it, and the first steps of the way to it."""

    node: Any
    number: int
    steps: tuple[Step, ...] = ()
    entry: Tensor | None = None
    """This input's element by element of the operation's slot, -1 for none; None: the same element."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer, with pairs of numbers by axis."""

    weight: Tensor
    """(group, output channel, input channel, tap)."""
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    is_transposed: bool = False

    @property
    def work(self) -> int:
        """Number of multiplications of one image's forward pass."""
        at = self.inputs if self.is_transposed else self.outputs
        return self.weight.numel() * at[0] * at[1]


@dataclass(frozen=True, eq=False)
class Window:
    """Weighted sums over positions, the same for all channels: position p of the result sums its part of `places`."""

    starts: Tensor
    places: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation node: its slot, its inputs, and the weights that it applies to the cotangents."""

    layout: Layout
    arrivals: tuple[Arrival, ...]
    payload: Layer | Window | None = None
    channel_step: int = 1
    """Elements from one channel of the input to the next."""
    position_step: int = 0
    """Elements from one position of the input to the next."""


@dataclass(eq=False)
class Edge:
    """A way from an operation to the slot below it, across a route."""

    target: int
    """Number of an operation, or -1 for the input."""
    size: int
    steps: list[Step] = field(default_factory=list)
    entry: Tensor | None = None

    @property
    def is_merging(self) -> bool:
        """True if several elements may arrive at one."""
        return any(step.is_merging for step in self.steps)
