"""Fold batch norms, and hand-written scales and biases, into the preceding layer."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from torch import Tensor

from pellucid.engine.linear_maps import Convolution, Dense
from pellucid.engine.tape import Addition, Affine, Move, Node, Tape

__all__ = ["fold_batch_norms"]


def fold_batch_norms(tape: Tape) -> None:
    """Merge each batch norm with the convolution or dense layer that feeds it into one affine node.

    weight′ = scale · weight, bias′ = scale · bias + shift. A per-channel constant added to a layer's output, or
    multiplied with it, is folded in the same way, so a hand-written batch norm or bias is explained like the module's.
    The layer's own node stays for other uses of its output; without any, no relevance reaches it. If several outputs
    are concatenated before the batch norm, each is folded separately, and outputs of other operations are normalized
    before the concatenation.
    """
    producers = {node.output: node for node in tape.nodes}
    new_slots = count(1 + max(producers, default=0))
    tape.nodes = [folded for node in tape.nodes for folded in _folded(node, producers, new_slots)]


def _folded(node: Node, producers: dict[int, Node], new_slots: Iterator[int]) -> list[Node]:
    source = _source(node, producers)
    if isinstance(source, Affine):
        norm = _per_unit(node, source)
        if norm is None:
            return [node]
        producers[node.output] = merged = _merged(norm, source)  # the next constant is folded into this one
        return [merged]
    if node.kind != "batch_norm" or not isinstance(node, Affine):
        return [node]
    if not isinstance(source, Move) or source.joined is None:
        return [node]
    parts = _parts(node, source, new_slots)
    origins = [_source(part, producers) for part in parts]
    if not any(_is_kernel(origin) for origin in origins):
        return [node]
    joined = replace(source, inputs=tuple(part.output for part in parts), output=node.output, is_first=False)
    folded = [
        _merged(part, origin) if isinstance(origin, Affine) and _is_kernel(origin) else part
        for part, origin in zip(parts, origins, strict=True)
    ]
    return [*folded, joined]


def _source(node: Node, producers: dict[int, Node]) -> Node | None:
    """Return the operation that feeds a batch norm, a scale or a sum with constants; None for other operations."""
    slots = [slot for slot in node.inputs if slot is not None]
    return producers.get(slots[0]) if node.kind in ("batch_norm", "scale", "add") and len(slots) == 1 else None


def _per_unit(node: Node, source: Affine) -> Affine | None:
    """Rewrite the node as a batch norm of the layer `source`; None unless its constants are one number per unit."""
    if not _is_kernel(source) and not (node.kind != "batch_norm" and isinstance(source.map, Dense)):
        return None
    if node.kind == "batch_norm":
        return node if isinstance(node, Affine) else None
    if node.is_masked:
        return None  # for a single image, a mask has the shape of one number per unit
    if isinstance(node, Addition):
        place = 0 if node.inputs[0] is None else 1
        constant, sign = node.terms[place] * node.signs[place], node.signs[1 - place]
    elif isinstance(node, Affine) and node.weight is not None:
        constant, sign = node.weight, 1
    else:
        return None
    axis = 1 if isinstance(source.map, Convolution) else source.z.ndim - 1
    units = source.z.shape[axis]
    place = axis - source.z.ndim + constant.ndim
    # A single number is not a layer's parameter: in relu6(x + 3) / 6 it belongs to the hard sigmoid.
    if units == 1 or constant.numel() != units or place < 0 or constant.shape[place] != units:
        return None
    vector = constant.flatten()
    if isinstance(node, Affine):
        return replace(node, bias=vector.new_zeros(units), weight=vector)
    return Affine(
        operation=node.operation,
        kind="batch_norm",
        inputs=(source.output,),
        output=node.output,
        path=node.path,
        is_first=node.is_first,
        batch_axis=node.batch_axis,
        x=source.z,
        z=node.z,
        weight=vector.new_full((units,), sign),
        bias=vector,
        map=source.map,
    )


def _is_kernel(node: Node | None) -> bool:
    """True if a node has a kernel and its output axis is axis 1, the one that a batch norm scales."""
    if not isinstance(node, Affine):
        return False
    return isinstance(node.map, Convolution) or (isinstance(node.map, Dense) and node.z.ndim == 2)


def _parts(node: Affine, source: Move, new_slots: Iterator[int]) -> list[Affine]:
    """Split the batch norm `node` into one per value that `source` concatenates."""
    assert source.joined is not None
    assert node.weight is not None
    assert node.bias is not None
    pieces = [value.split(source.joined, axis) for value, axis in
              ((node.x, 1), (node.z, 1), (node.weight, 0), (node.bias, 0))]  # fmt: skip
    return [
        replace(node, inputs=(slot,), output=next(new_slots), x=x, z=z, weight=weight, bias=bias)
        for slot, x, z, weight, bias in zip(source.inputs, *pieces, strict=True)
    ]


def _merged(node: Affine, source: Affine) -> Affine:
    """Merge a batch norm and the layer that feeds it into one affine node."""
    assert node.weight is not None
    assert node.bias is not None
    assert source.weight is not None
    scale, shift = node.weight.flatten(), node.bias.flatten()
    return replace(
        source,
        operation=f"{source.operation} with {node.operation}",
        output=node.output,
        z=node.z,
        weight=_scaled(source, source.weight, scale),
        bias=shift if source.bias is None else shift + scale * source.bias,
    )


def _scaled(source: Affine, weight: Tensor, scale: Tensor) -> Tensor:
    """Scale the weight's output axis: axis 0, or axis 1 within each group of a transposed convolution."""
    if not (isinstance(source.map, Convolution) and source.map.transposed):
        return weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
    groups = source.map.groups
    ins, outs, *sizes = weight.shape
    grouped = weight.view(groups, ins // groups, outs, *sizes)
    return (grouped * scale.view(groups, 1, outs, *(1 for _ in sizes))).view(weight.shape)
