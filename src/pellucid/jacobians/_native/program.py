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

    def add(self, *values: int | Tensor | None) -> None:
        """Append numbers, and for each tensor its address and its length: zeros for None."""
        for value in values:
            if isinstance(value, Tensor):
                assert value.is_contiguous()
                self.tensors.append(value)
                self.words += value.data_ptr(), value.numel()
            elif value is None:
                self.words += 0, 0
            else:
                self.words.append(int(value))


def encode(program: Program, inputs: int, seeds: Sequence[int] | Tensor, packed: Packed, vector: int) -> Encoder:
    """Encode a program for `inputs` elements per image at its lower end.

    `seeds` are the indices of the outputs to differentiate, or cotangents (batch, output, element). `packed` caches
    rearranged weights for the chunks of a call; `vector` is the kernel's number of values per vector.
    """
    encoder = Encoder()
    units, cotangents, step = _cotangents(seeds, program.images.dtype)
    owners = {edge: operation for operation, edges in program.operations for edge in edges}
    arriving: list[list[int]] = [[] for _ in program.operations]
    for number, edge in enumerate(program.edges):
        if edge.target >= 0:
            arriving[edge.target].append(number)
    ends = [number for number, edge in enumerate(program.edges) if edge.target < 0]
    is_direct = len(ends) == 1 and not program.edges[ends[0]].steps and isinstance(owners[ends[0]].payload, Layer)
    encoder.add(cotangents.shape[-2], inputs, not is_direct, step, units, cotangents, len(program.operations))
    for (operation, _), numbers in zip(program.operations, arriving, strict=True):
        layout, payload = operation.layout, operation.payload
        groups = payload.weight.shape[0] if isinstance(payload, Layer) else 1
        is_merged = len(numbers) > 1 or any(_is_merging(program.edges[at], owners[at]) for at in numbers)
        encoder.add(layout.channels, layout.positions, layout.channel_step, groups, is_merged, len(numbers), *numbers)
    encoder.add(len(program.edges))
    scales: dict[int, Tensor] = {}
    for number, edge in enumerate(program.edges):
        target = program.operations[edge.target][0] if edge.target >= 0 else None
        scale = _add_edge(encoder, edge, owners[number], target, is_sole=len(arriving[edge.target]) == 1)
        if scale is not None:
            scales[edge.target] = scale
    for number, (operation, edges) in enumerate(program.operations):
        below = program.edges[edges[0]]
        _add_operation(encoder, number, operation, _Packer(packed, vector, scales.get(number)), below)
        encoder.add(len(edges), *edges)
    return encoder


def _cotangents(seeds: Sequence[int] | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Return the elements that have a cotangent, (image, output, element), and the step from image to image."""
    if isinstance(seeds, Tensor):
        return torch.arange(seeds.shape[2], dtype=torch.int64, device="cpu"), seeds, seeds[0].numel()
    units = torch.tensor(sorted(set(seeds)), dtype=torch.int64, device="cpu")
    wanted = torch.tensor(list(seeds), dtype=torch.int64, device="cpu")
    return units, (wanted[:, None] == units).to(dtype), 0


@lru_cache(maxsize=256)
def _ascending(count: int) -> Tensor:
    """Return the order of channels that are taken as they are."""
    return torch.arange(count, dtype=torch.int32, device="cpu")


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


def _add_edge(
    encoder: Encoder, edge: Edge, owner: Operation, target: Operation | None, *, is_sole: bool
) -> Tensor | None:
    """Append an edge; returns the scales of the target's channels, which are left out, if there are any."""
    steps, scale = edge.steps, None
    if target is not None and is_sole and _keeps_channels(edge, target):
        steps, scale = _without_scales(edge)
    if edge.entry is not None:  # from the element of the slot to that of the edge
        steps = [Step("table", edge.entry, size=edge.size), *steps]
    # elements keep their numbers unless they are dropped, and those of a channel follow each other
    is_plain = (
        target is not None
        and owner.payload is not None
        and target.layout.channel_step != 1
        and all(step.kind not in ("pool", "table") for step in steps)
    )
    encoder.add(edge.target, edge.size, is_plain, len(steps))
    size = edge.size
    for step in steps:
        kind, data = step.kind, step.data
        if kind == "scale":
            kind, data = "multiply", data.repeat_interleave(step.inner).repeat(-(-size // (step.outer * step.inner)))
        encoder.add(STEPS.index(kind), step.image_step, step.outer, step.inner)
        encoder.add(*(data if kind in kinds else None for kinds in (MASKS, ("pool",), ("table",))))
        size = size // step.outer * step.inner if kind == "pool" else step.size or size
    return scale


def _add_operation(encoder: Encoder, slot: int, operation: Operation, packer: "_Packer", below: Edge) -> None:
    """Append an operation, except for its edges."""
    kind, layer = _kind(operation), operation.payload
    encoder.add(kind, slot, operation.channel_step, operation.position_step)
    if not isinstance(layer, Layer):
        encoder.add(1, *(0,) * 9)
        encoder.add(*((layer.weights, None, None, layer.starts, layer.places) if layer else (None,) * 5), *(None,) * 10)
        return
    groups, outputs, inputs, _ = layer.weight.shape
    # channels are contiguous, unless they are the features of a token
    use = _use(below, groups * inputs) if kind == GATHER and operation.position_step == 1 else None
    weights, tail, order = packer.arrays(layer, kind, use)
    taps, width = layer.kernel[0] * layer.kernel[1], packer.width(layer.weight, kind)
    encoder.add(groups, inputs, outputs, width, taps, layer.kernel[1], *layer.inputs, *layer.outputs)
    encoder.add(weights, tail, order, None, None)
    # the kernel gathers from the input to the output, and scatters from the output to the input
    sides = (layer.inputs, layer.outputs) if kind == GATHER else (layer.outputs, layer.inputs)
    geometry = tuple(zip(*sides, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True))
    if kind == GATHER:
        encoder.add(None, None)
        for sizes in geometry:
            encoder.add(*_axis(*sizes, is_forward=layer.is_transposed))
    else:
        tables = _targets(geometry, groups * inputs, inputs, width, is_forward=not layer.is_transposed)
        encoder.add(*tables, *(None,) * 8)


@lru_cache(maxsize=1024)
def _axis(  # one size per argument
    size: int, other: int, kernel: int, stride: int, padding: int, dilation: int, *, is_forward: bool
) -> list[Tensor]:
    """Return the runs along an axis of a convolution: the first of each place, and their first, last, tap plus place.

    Taps connect each place to places on the other side. A run consists of neighboring ones among these, for which the
    sum of tap and place is constant.
    """
    starts = [0]
    runs: list[list[int]] = []
    for reached in _reach(size, other, kernel, stride, padding, dilation, is_forward=is_forward):
        for tap in reversed(range(kernel)):
            at = reached[tap] - 1
            if at < 0:
                continue
            if len(runs) > starts[-1] and runs[-1][1:] == [at - 1, tap + at]:
                runs[-1][1] = at
            else:
                runs.append([at, at, tap + at])
        starts.append(len(runs))
    columns = list(zip(*runs, strict=True)) or [()] * 3
    return [torch.tensor(column, dtype=torch.int32, device="cpu") for column in (starts, *columns)]


@lru_cache(maxsize=256)
def _targets(
    geometry: tuple[tuple[int, ...], ...], channels: int, inputs: int, width: int, *, is_forward: bool
) -> tuple[Tensor, Tensor]:
    """Return where products with a convolution's weights (tap, input channel), padded to `width`, go along each axis.

    By line of the output, the line of the input plus one; by place along the output's lines, the place along the
    input's plus one, times all `channels`, plus the channel. Both are 0 for what lies outside.
    """
    down, across = (_reach(*sizes, is_forward=is_forward) for sizes in geometry)
    lines = [[y for y in reached for _ in range(len(across[0]) * inputs)] for reached in down]
    places = [
        [x * channels + channel for _ in down[0] for x in reached for channel in range(inputs)] for reached in across
    ]
    tables = (torch.tensor(table, dtype=torch.int32, device="cpu") for table in (lines, places))
    first, second = (F.pad(table, (0, width - table.shape[1])).contiguous() for table in tables)
    return first, second


def _reach(  # one size per argument
    size: int, other: int, kernel: int, stride: int, padding: int, dilation: int, *, is_forward: bool
) -> list[list[int]]:
    """Return, by place and tap, the place that the tap reaches on the other side plus one, or 0 if it lies outside.

    `is_forward`: the place on the other side is place · stride - padding + tap · dilation; otherwise, it is the
    solution of the reverse equation.
    """
    step = 1 if is_forward else stride

    def reached(place: int, tap: int) -> int:
        at = place * stride - padding + tap * dilation if is_forward else place + padding - tap * dilation
        return at // step + 1 if at % step == 0 and 0 <= at // step < other else 0

    return [[reached(place, tap) for tap in range(kernel)] for place in range(size)]


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
        width, order = self.width(weight, kind), _ascending(groups * inputs)
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
