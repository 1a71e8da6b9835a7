"""Encoding of a program as the array of words that the kernel reads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.jacobians._native.graph import Program
from pellucid.jacobians._native.values import Edge, Layer, Operation, Step, Window

__all__ = ["Encoder", "encode"]

STEPS = ("keep_positive", "multiply", "scale", "pool", "table")
"""Kinds of steps, in the order of the kernel's enumeration."""
IDENTITY, GATHER, SCATTER, POSITIONS = range(4)
"""Kinds of operations in the kernel."""

BLOCK = 9
"""Weights that the kernel applies to a row at once where it scatters; the constant of this name in the kernel."""

FEWEST_CHANNELS = 8
"""Input channels of a group from which a convolution is vectorized over them rather than over cotangents."""

Packed = dict[tuple[object, ...], tuple[Tensor, Tensor]]
"""Weights and what they look like after a rearrangement, by the address, shape and strides of the weight."""


class Encoder:
    """Collects words, and keeps the tensors alive whose addresses are among them."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.tensors: list[Tensor] = []

    def add(self, *words: int) -> None:
        """Append numbers."""
        self.words += [int(word) for word in words]

    def array(self, tensor: Tensor | None) -> None:
        """Append the address and length of a tensor."""
        if tensor is None:
            self.add(0, 0)
            return
        assert tensor.is_contiguous()
        self.tensors.append(tensor)
        self.add(tensor.data_ptr(), tensor.numel())


def encode(
    program: Program, inputs: int, wanted: Sequence[int], cotangents: Tensor | None, packed: Packed, vector: int
) -> Encoder:
    """Encode a program for `inputs` elements per image at its lower end.

    The cotangents are unit vectors of the `wanted` outputs, or `cotangents` (batch, output, element). `packed` caches
    rearranged weights for the chunks of a call; `vector` is the kernel's number of values per vector.
    """
    encoder = Encoder()
    ends = [edge for edge in program.edges if edge.target < 0]
    owners = {edge: operation for operation, edges in program.operations for edge in edges}
    kinds = [_kind(operation) for operation, _ in program.operations]
    is_direct = (
        len(ends) == 1 and not ends[0].steps and _kind(owners[program.edges.index(ends[0])]) in (GATHER, SCATTER)
    )
    encoder.add(len(wanted) if cotangents is None else cotangents.shape[1], inputs, program.images.count, not is_direct)
    encoder.array(torch.tensor(list(wanted), dtype=torch.int64, device="cpu"))
    encoder.array(cotangents)
    encoder.add(len(program.operations))
    for number, (operation, _) in enumerate(program.operations):
        arriving = [at for at, edge in enumerate(program.edges) if edge.target == number]
        layout = operation.layout
        encoder.add(layout.channels, layout.positions, layout.channel_step, layout.position_step)
        encoder.add(len(arriving) > 1 or any(_is_merging(program.edges[at], owners[at]) for at in arriving))
    encoder.add(len(program.edges))
    for number, edge in enumerate(program.edges):
        # an identity passes on the rows of its slot, not all elements
        is_reduced = owners[number].payload is None
        encoder.add(edge.target, edge.size, edge.start, 0 if is_reduced else _strip(edge, program))
        encoder.array(edge.entry)
        encoder.add(len(edge.steps))
        for step in edge.steps:
            _add_step(encoder, step)
    encoder.add(len(program.operations))
    for number, ((operation, edges), kind) in enumerate(zip(program.operations, kinds, strict=True)):
        encoder.add(kind, number, len(edges), *edges)
        _add_payload(encoder, operation, kind, packed, vector)
    return encoder


def _strip(edge: Edge, program: Program) -> int:
    """Return the elements per channel at an edge's upper end if they stay in their channel of the slot, else 0."""
    if edge.target < 0:
        return 0
    layout = program.operations[edge.target][0].layout
    if layout.channel_step != layout.positions or edge.size % layout.channels:
        return 0
    size = edge.size // layout.channels
    for step in edge.steps:
        if step.kind == "table" or (step.kind == "pool" and step.outer != size):
            return 0
        size = step.inner if step.kind == "pool" else size
    return edge.size // layout.channels if size == layout.positions else 0


def _kind(operation: Operation) -> int:
    if isinstance(operation.payload, Layer):
        return GATHER if operation.payload.weight.shape[2] >= FEWEST_CHANNELS else SCATTER
    return IDENTITY if operation.payload is None else POSITIONS


def _is_merging(edge: Edge, owner: Operation) -> bool:
    """Return True if several contributions of an edge may arrive at one element."""
    return edge.is_merging or isinstance(owner.payload, Window)


def _add_step(encoder: Encoder, step: Step) -> None:
    encoder.add(STEPS.index(step.kind), step.image_step, step.outer, step.inner)
    encoder.array(step.data)


def _add_payload(encoder: Encoder, operation: Operation, kind: int, packed: Packed, vector: int) -> None:
    payload = operation.payload
    if payload is None:
        return
    encoder.add(operation.channel_step, operation.position_step)
    if isinstance(payload, Window):
        for array in (payload.weights, None, payload.starts, payload.places):
            encoder.array(array)
        return
    groups, outputs, inputs, taps = payload.weight.shape
    is_narrow = inputs <= vector or (inputs < 4 * vector and 0 < inputs % (2 * vector) <= vector)
    width = -(-taps * inputs // BLOCK) * BLOCK if kind == SCATTER else vector if is_narrow else 2 * vector
    for array in _weights(payload.weight, kind, width, packed):
        encoder.array(array)
    encoder.add(groups, inputs, outputs, width, payload.is_transposed)
    for pair in (
        payload.inputs,
        payload.outputs,
        payload.kernel,
        payload.stride,
        payload.padding,
        payload.dilation,
    ):
        encoder.add(*pair)


def _weights(weight: Tensor, kind: int, width: int, packed: Packed) -> tuple[Tensor, Tensor | None]:
    """Return the weights (group, output channel, input channel, tap) as the kernel reads them.

    A matrix is read as it is, except for a last panel that its rows do not fill, which is copied.
    """
    groups, _, inputs, taps = weight.shape
    if kind == GATHER and groups == taps == 1 and weight[0, :, :, 0].is_contiguous() and inputs >= width:
        rest = inputs % width
        # without a rest, any non-empty tail says that the matrix is read as it is
        tail = F.pad(weight[0, :, inputs - rest :, 0], (0, width - rest)) if rest else weight[0, :1, :1, 0]
        return weight[0, :, :, 0], tail.contiguous()
    key = (weight.data_ptr(), weight.shape, weight.stride(), kind)
    if key not in packed:
        # with the weight itself, so that no other weight of a later chunk gets its address
        packed[key] = weight, _in_panels(weight, width) if kind == GATHER else _by_row(weight, width)
    return packed[key][1], None


def _in_panels(weight: Tensor, width: int) -> Tensor:
    """Rearrange (group, output channel, input channel, tap) as (group, panel, tap, output channel, lane)."""
    groups, outputs, inputs, taps = weight.shape
    panels = -(-inputs // width)
    if panels * width != inputs:
        weight = F.pad(weight, (0, 0, 0, panels * width - inputs))
    return weight.reshape(groups, outputs, panels, width, taps).permute(0, 2, 4, 1, 3).contiguous()


def _by_row(weight: Tensor, width: int) -> Tensor:
    """Rearrange (group, output channel, input channel, tap) as (output channel, tap and input channel), padded."""
    rows = weight.transpose(2, 3).flatten(2).flatten(0, 1)
    return F.pad(rows, (0, width - rows.shape[1])).contiguous()
