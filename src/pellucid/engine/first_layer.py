"""Sums of gradients at the first layer's output, carried to the image once.

Where an image enters a network through one linear layer alone, the sum of many gradients at that layer's output,
carried back through the layer once, is the sum of the gradients at the image: the last and often largest step back is
taken once instead of every time.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from pellucid.engine.derivatives import WAY_OUT, derivatives

__all__ = ["Entrance", "entrance_of"]


@dataclass(frozen=True, eq=False)
class Entrance:
    """The output of the layer through which one evaluation's image entered."""

    leaf: Tensor
    edge: GradientEdge
    key: tuple[Any, ...]
    """The same for two evaluations whose images entered through the same operations with the same weights."""

    def gradient(self, score: Tensor, *, is_kept: bool = False) -> Tensor:
        """∂ score / ∂ the layer's output; unless it is kept, what lies behind it in the graph is used up.

        Raises `UnsupportedOperation` where autograd knows no derivative.
        """
        slope = derivatives(score, [self.edge], way_out=WAY_OUT, retain_graph=is_kept)[0]
        assert slope is not None
        return slope

    def to_image(self, cotangent: Tensor) -> Tensor:
        """A cotangent of the layer's output, carried to the image."""
        return torch.autograd.grad([self.edge], self.leaf, cotangent, retain_graph=True)[0]  # for the next score


_LAYERS = {"ConvolutionBackward0": "_saved_weight", "AddmmBackward0": "_saved_mat2", "MmBackward0": "_saved_mat2"}
"""The layers an image can enter by, and where autograd keeps their weight."""
_SCALES = {"DivBackward0": "_saved_other", "MulBackward0": "_saved_other"}
"""What may come before the layer with a constant of the model, as in a normalisation."""
_MOVES = {"CloneBackward0", "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "SubBackward0"}
"""What may come before the layer whatever its constants are: its derivative does not depend on them."""


def entrance_of(score: Tensor, leaf: Tensor, model: nn.Module) -> Entrance | None:
    """Where `leaf` enters the graph of `score`, if by nothing but one linear layer with a weight of the frozen `model`.

    None where the image is used in several places, or first by something that is not linear.
    """
    users = _users(score)
    own = {tensor.data_ptr() for source in (model.parameters(), model.buffers()) for tensor in source}
    start = next((node for node in users if getattr(node, "variable", None) is leaf), None)
    if start is None:
        return None
    key: list[Any] = []
    node = start
    while len(users[node]) == 1:
        node = users[node][0]
        name = node.name()
        constant = _LAYERS.get(name) or _SCALES.get(name)
        if constant is not None:
            weight = getattr(node, constant, None)
            if weight is None or weight.data_ptr() not in own:
                return None
            key.append((name, weight.data_ptr(), weight.shape, weight.stride()))
        elif name not in _MOVES:
            return None
        if name in _LAYERS:
            return Entrance(leaf, GradientEdge(node, 0), tuple(key))
    return None


def _users(score: Tensor) -> dict[Any, list[Any]]:
    """For each node of the graph of `score`, the nodes that its output goes to, once for each use."""
    users: dict[Any, list[Any]] = defaultdict(list)
    waiting = [score.grad_fn]
    while waiting:
        node = waiting.pop()
        for source, _ in [] if node is None else node.next_functions:
            if source is not None:
                if source not in users:
                    waiting.append(source)
                users[source].append(node)
    return users
