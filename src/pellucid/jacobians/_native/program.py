"""Encoding of a program as the array of words that the kernel reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.jacobians._native.graph import Program
from pellucid.jacobians._native.values import Edge, Layer, Operation, Step, Window

__all__ = ["Encoder", "encode"]

STEPS = ("keep_positive", "multiply", "pool", "table")
"""Kinds of steps, in the order of the kernel's enumeration."""
IDENTITY, GATHER, SCATTER, POSITIONS = range(4)
"""Kinds of operations in the kernel."""

BLOCK = 9
"""Weights that the kernel applies to a row at once where it scatters; the constant of this name in the kernel."""

FEWEST_CHANNELS = 8
"""Input channels of a group from which a convolution is vectorized over them rather than over cotangents."""

Packed = dict[tuple[object, ...], tuple[Tensor, Tensor | None, Tensor, Tensor]]
"""Weights, factors of their output channels, the result of arranging them, and the order of their input channels, by
address, shape and strides."""

MASKS = ("keep_positive", "multiply")
"""Kinds of steps that drop elements."""
FEW_IMAGES = 4
"""Images from which the use of each channel is estimated."""


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


def encode(program: Program, inputs: int, seeds: Sequence[int] | Tensor, packed: Packed, vector: int) -> Encoder:
    """Encode a program for `inputs` elements per image at its lower end.

    `seeds` are the indices of the outputs to differentiate, or cotangents (batch, output, element). `packed` caches
    rearranged weights for the chunks of a call; `vector` is the kernel's number of values per vector.
    """
    encoder = Encoder()
    ends = [edge for edge in program.edges if edge.target < 0]
    owners = {edge: operation for operation, edges in program.operations for edge in edges}
    kinds = [_kind(operation) for operation, _ in program.operations]
    is_direct = (
        len(ends) == 1 and not ends[0].steps and _kind(owners[program.edges.index(ends[0])]) in (GATHER, SCATTER)
    )
    if isinstance(seeds, Tensor):
        units = torch.arange(seeds.shape[2], dtype=torch.int64, device="cpu")
        cotangents, step = seeds, seeds[0].numel()
    else:
        units = torch.tensor(sorted(set(seeds)), dtype=torch.int64, device="cpu")
        wanted = torch.tensor(list(seeds), dtype=torch.int64, device="cpu")
        cotangents, step = (wanted[:, None] == units).to(program.images.dtype), 0
    encoder.add(cotangents.shape[-2], inputs, not is_direct, step, len(program.operations))
    encoder.array(units)
    encoder.array(cotangents)
    arriving: list[list[int]] = [[] for _ in program.operations]
    for number, edge in enumerate(program.edges):
        if edge.target >= 0:
            arriving[edge.target].append(number)
    for (operation, _), numbers in zip(program.operations, arriving, strict=True):
        layout = operation.layout
        encoder.add(layout.channels, layout.positions, layout.channel_step)
        encoder.add(len(numbers) > 1 or any(_is_merging(program.edges[at], owners[at]) for at in numbers))
    encoder.add(len(program.edges))
    scales: dict[int, Tensor] = {}
    for edge in program.edges:
        steps, is_sole = edge.steps, edge.target >= 0 and len(arriving[edge.target]) == 1
        if is_sole and _keeps_channels(edge, program.operations[edge.target][0]):
            steps, scale = _without_scales(edge)
            if scale is not None:
                scales[edge.target] = scale
        encoder.add(edge.target, edge.size, len(steps))
        encoder.array(edge.entry)
        size = edge.size
        for each in steps:
            _add_step(encoder, each, size)
            size = size // each.outer * each.inner if each.kind == "pool" else each.size or size
    for number, ((operation, edges), kind) in enumerate(zip(program.operations, kinds, strict=True)):
        encoder.add(kind, len(edges), *edges)
        if isinstance(operation.payload, Layer):
            packer = _Packer(packed, vector, scales.get(number))
            _add_layer(encoder, operation, kind, packer, program.edges[edges[0]])
        elif operation.payload is not None:
            encoder.add(operation.channel_step, operation.position_step)
            for array in (operation.payload.weights, operation.payload.starts, operation.payload.places):
                encoder.array(array)
    return encoder


def _keeps_channels(edge: Edge, target: Operation) -> bool:
    """Return True if an edge leads to a layer, and all its elements stay in their channel."""
    layout = target.layout
    if not isinstance(target.payload, Layer) or layout.channel_step != layout.positions or edge.size % layout.channels:
        return False
    size = edge.size // layout.channels
    for step in edge.steps:
        is_foreign = step.kind == "scale" and step.outer > 1 and (step.outer, step.inner) != (layout.channels, size)
        if step.kind == "table" or is_foreign or (step.kind == "pool" and step.outer != size):
            return False
        size = step.inner if step.kind == "pool" else size
    return size == layout.positions


def _without_scales(edge: Edge) -> tuple[list[Step], Tensor | None]:
    """Split off the scales of an edge within channels: they can be applied to the weights of the layer below."""
    scales = [step.data for step in edge.steps if step.kind == "scale"]
    if not scales:
        return edge.steps, None
    product = scales[0]
    for scale in scales[1:]:
        product = product * scale
    return [step for step in edge.steps if step.kind != "scale"], product


def _kind(operation: Operation) -> int:
    if isinstance(operation.payload, Layer):
        return GATHER if operation.payload.weight.shape[2] >= FEWEST_CHANNELS else SCATTER
    return IDENTITY if operation.payload is None else POSITIONS


def _is_merging(edge: Edge, owner: Operation) -> bool:
    """Return True if several contributions of an edge may arrive at one element."""
    return edge.is_merging or isinstance(owner.payload, Window)


def _add_step(encoder: Encoder, step: Step, size: int) -> None:
    """Append a step for `size` elements."""
    kind, data = step.kind, step.data
    if kind == "scale":
        kind, data = "multiply", data.repeat_interleave(step.inner).repeat(-(-size // (step.outer * step.inner)))
    encoder.add(STEPS.index(kind), step.image_step, step.outer, step.inner)
    encoder.array(data)


def _add_layer(encoder: Encoder, operation: Operation, kind: int, packer: "_Packer", below: Edge) -> None:
    layer = operation.payload
    assert isinstance(layer, Layer)
    groups, outputs, inputs, _ = layer.weight.shape
    encoder.add(operation.channel_step, operation.position_step)
    # channels are contiguous, unless they are the features of a token
    use = _use(below, groups * inputs) if kind == GATHER and operation.position_step == 1 else None
    for array in packer.arrays(layer, kind, use):
        encoder.array(array)
    encoder.add(
        groups, inputs, outputs, packer.width(layer.weight, kind), layer.kernel[0] * layer.kernel[1], layer.kernel[1]
    )
    encoder.add(*layer.inputs, *layer.outputs)
    # the kernel gathers from the input to the output, and scatters from the output to the input
    sides = (layer.inputs, layer.outputs) if kind == GATHER else (layer.outputs, layer.inputs)
    geometry = zip(*sides, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    for sizes in geometry:
        for array in _axis(*sizes, is_forward=(kind == GATHER) == layer.is_transposed):
            encoder.array(array)


@lru_cache(maxsize=1024)
def _axis(  # one size per argument
    size: int, other: int, kernel: int, stride: int, padding: int, dilation: int, *, is_forward: bool
) -> list[Tensor]:
    """Return the runs along an axis of a convolution: the first of each place, and their first, last, tap plus place.

    Taps connect each place to places on the other side. A run consists of neighboring ones among these, for which the
    sum of tap and place is constant. `is_forward`: the place on the other side is place · stride - padding +
    tap · dilation; otherwise, it is the solution of the reverse equation.
    """
    step = 1 if is_forward else stride
    starts = [0]
    runs: list[list[int]] = []
    for place in range(size):
        for tap in reversed(range(kernel)):
            at = place * stride - padding + tap * dilation if is_forward else place + padding - tap * dilation
            if at % step or not 0 <= at // step < other:
                continue
            at //= step
            if len(runs) > starts[-1] and runs[-1][1:] == [at - 1, tap + at]:
                runs[-1][1] = at
            else:
                runs.append([at, at, tap + at])
        starts.append(len(runs))
    columns = list(zip(*runs, strict=True)) or [()] * 3
    return [torch.tensor(column, dtype=torch.int32, device="cpu") for column in (starts, *columns)]


@dataclass(frozen=True, eq=False)
class _Packer:
    """Arranges the weights (group, output channel, input channel, tap) of a layer as the kernel reads them."""

    packed: Packed
    vector: int
    """Values per vector of the kernel."""
    scale: Tensor | None
    """Factor of each output channel."""

    def width(self, weight: Tensor, kind: int) -> int:
        """Return the input channels per panel, or the padded length of a row of weights where the kernel scatters."""
        inputs, taps = weight.shape[2:]
        return -(-taps * inputs // BLOCK) * BLOCK if kind == SCATTER else self.vector

    def arrays(self, layer: Layer, kind: int, use: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the arranged weights, the last panel of a matrix that is otherwise read as it is, and the order.

        `use` is the share of positions at which each input channel is needed, in any order if it is None.
        """
        weight = layer.weight
        groups, outputs, inputs, taps = weight.shape
        width, order = self.width(weight, kind), torch.arange(groups * inputs, dtype=torch.int32, device="cpu")
        is_matrix = kind == GATHER and groups == taps == 1 and layer.inputs == (1, 1) and inputs >= width
        if is_matrix and weight[0, :, :, 0].is_contiguous() and self.scale is None:
            rest = inputs % width
            # without a rest, any non-empty tail says that the matrix is read as it is
            tail = F.pad(weight[0, :, inputs - rest :, 0], (0, width - rest)) if rest else weight[0, :1, :1, 0]
            return weight[0, :, :, 0], tail.contiguous(), order
        key = (weight.data_ptr(), weight.shape, weight.stride(), kind)
        if key in self.packed:
            _, scale, arranged, order = self.packed[key]
            if scale is self.scale or (scale is not None and self.scale is not None and torch.equal(scale, self.scale)):
                return arranged, None, order
        if use is not None and kind == GATHER and inputs > width:
            sorted_use = use.view(groups, inputs).argsort(dim=1, descending=True, stable=True)
            parts = [part.index_select(1, places) for part, places in zip(weight, sorted_use, strict=True)]
            source = torch.stack(parts) if groups > 1 else parts[0][None]
            first = torch.arange(groups, device="cpu", dtype=torch.int64)[:, None] * inputs
            order = (sorted_use + first).to(torch.int32).flatten()
        else:
            source = weight
        arranged = _in_panels(source, width) if kind == GATHER else _by_row(source, width)
        if self.scale is not None:  # one factor may stand for all channels
            scale = self.scale.expand(groups * outputs)
            shape = (groups, 1, 1, outputs, 1) if kind == GATHER else (groups * outputs, 1)
            # a weight that is arranged already is not copied, and must not change
            is_copy = arranged.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
            arranged = arranged.mul_(scale.view(shape)) if is_copy else arranged * scale.view(shape)
        # with the weight itself, so that no other weight of a later chunk gets its address
        self.packed[key] = weight, self.scale, arranged, order
        return arranged, None, order


def _use(edge: Edge, channels: int) -> Tensor | None:
    """Estimate the share of positions at which each channel at an edge's upper end is needed, from a few images.

    Returns None if its first steps do not say that. It decides only the order in which the kernel takes the channels.
    """
    if not edge.steps or edge.size % channels:
        return None
    first, second = edge.steps[0], edge.steps[min(1, len(edge.steps) - 1)]
    if first.kind in MASKS and first.image_step == edge.size:
        is_needed = first.data.view(-1, edge.size)[:FEW_IMAGES] > 0
    elif first.kind == "pool" and second.kind in MASKS and second.image_step == edge.size // first.outer * first.inner:
        winners = first.data.view(-1, edge.size // first.outer, first.outer)[:FEW_IMAGES].clamp(min=0)
        values = second.data.view(-1, edge.size // first.outer, first.inner)[:FEW_IMAGES]
        is_needed = values.gather(2, winners) > 0
    else:
        return None
    return is_needed.reshape(-1, channels, edge.size // channels).float().mean((0, 2))


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
