"""Batch-norm folded into the affine operation that feeds it, where one was seen in this very pass."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from torch import Tensor

from pellucid.engine.linear_maps import Convolution, Dense
from pellucid.engine.tape import Affine, Move, Node, Tape

__all__ = ["fold_batch_norms"]


def fold_batch_norms(tape: Tape) -> None:
    """Replace each batch-norm whose input is the output of a convolution or a dense layer by one affine node.

    weight′ = scale · weight, bias′ = scale · bias + shift. The layer's own node stays for what else uses its
    output; where nothing does, no relevance reaches it. Where several outputs are joined before the batch-norm, each
    is folded by itself, and those of other operations are normalised before they are joined.
    """
    producers = {node.output: node for node in tape.nodes}
    new_slots = count(1 + max(producers, default=0))
    tape.nodes = [made for node in tape.nodes for made in _folded(node, producers, new_slots)]


def _folded(node: Node, producers: dict[int, Node], new_slots: Iterator[int]) -> list[Node]:
    source = _source(node, producers)
    if source is None or not isinstance(node, Affine):
        return [node]
    if isinstance(source, Affine):
        return [_merged(node, source)] if _is_kernel(source) else [node]
    if not isinstance(source, Move) or source.joined is None:
        return [node]
    parts = _parts(node, source, new_slots)
    origins = [_source(part, producers) for part in parts]
    if not any(_is_kernel(origin) for origin in origins):
        return [node]
    joined = replace(source, inputs=tuple(part.output for part in parts), output=node.output, is_first=False)
    made = [
        _merged(part, origin) if isinstance(origin, Affine) and _is_kernel(origin) else part
        for part, origin in zip(parts, origins, strict=True)
    ]
    return [*made, joined]


def _source(node: Node, producers: dict[int, Node]) -> Node | None:
    """What feeds a batch-norm; None for other operations."""
    slot = node.inputs[0] if node.kind == "batch_norm" else None
    return None if slot is None else producers.get(slot)


def _is_kernel(node: Node | None) -> bool:
    """Whether a node has a kernel, and axis 1, which a batch-norm scales, is its output axis."""
    if not isinstance(node, Affine):
        return False
    return isinstance(node.map, Convolution) or (isinstance(node.map, Dense) and node.z.ndim == 2)


def _parts(node: Affine, source: Move, new_slots: Iterator[int]) -> list[Affine]:
    """The batch-norm of each of the values that `source` joins."""
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
    """A batch-norm and the layer that feeds it, as one affine node."""
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
    """The weight with its outputs scaled: axis 0, or axis 1 within each group of a transposed convolution."""
    if not (isinstance(source.map, Convolution) and source.map.transposed):
        return weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
    groups = source.map.groups
    ins, outs, *sizes = weight.shape
    grouped = weight.view(groups, ins // groups, outs, *sizes)
    return (grouped * scale.view(groups, 1, outs, *(1 for _ in sizes))).view(weight.shape)
