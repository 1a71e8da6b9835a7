"""Batch-norm folded into the affine operation that feeds it, where one was seen in this very pass."""

from dataclasses import replace

from torch import Tensor

from pellucid.engine.linear_maps import Convolution, Dense
from pellucid.engine.tape import Affine, Node, Tape

__all__ = ["fold_batch_norms"]


def fold_batch_norms(tape: Tape) -> None:
    """Replace each batch-norm whose input is the output of a convolution or a dense layer by one affine node.

    weight′ = scale · weight, bias′ = scale · bias + shift. The layer's own node stays for what else uses its
    output; where nothing does, no relevance reaches it.
    """
    producers = {node.output: node for node in tape.nodes}
    tape.nodes = [_folded(node, producers) for node in tape.nodes]


def _folded(node: Node, producers: dict[int, Node]) -> Node:
    if node.kind != "batch_norm" or not isinstance(node, Affine):
        return node
    slot = node.inputs[0]
    source = None if slot is None else producers.get(slot)
    if not isinstance(source, Affine) or not _channels_match(source):
        return node
    assert node.weight is not None
    assert node.bias is not None
    assert source.weight is not None
    scale, shift = node.weight.flatten(), node.bias.flatten()
    bias = shift if source.bias is None else shift + scale * source.bias
    weight = _scaled(source, source.weight, scale)
    return replace(
        source,
        operation=f"{source.operation} with {node.operation}",
        output=node.output,
        z=node.z,
        weight=weight,
        bias=bias,
    )


def _channels_match(source: Affine) -> bool:
    """Whether axis 1, which a batch-norm scales, is the layer's output axis."""
    return isinstance(source.map, Convolution) or (isinstance(source.map, Dense) and source.z.ndim == 2)


def _scaled(source: Affine, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with its outputs scaled: axis 0, or axis 1 within each group of a transposed convolution."""
    if not (isinstance(source.map, Convolution) and source.map.transposed):
        return weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
    groups = source.map.groups
    ins, outs, *sizes = weight.shape
    grouped = weight.view(groups, ins // groups, outs, *sizes)
    return (grouped * scale.view(groups, 1, outs, *(1 for _ in sizes))).view(weight.shape)
