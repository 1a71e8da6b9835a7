"""Sum gradients at the first layer's output, and backpropagate the sum to the image once.

If the image enters a network only through one linear layer, backpropagating the sum of many gradients at its output
gives the sum of the gradients at the image. The last and often most expensive step of the backward pass then runs once
instead of once per gradient.
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
    """The output of the layer through which the image of one evaluation enters the network."""

    leaf: Tensor
    edge: GradientEdge
    key: tuple[Any, ...]
    """Equal for two evaluations whose images enter through the same operations with the same weights."""

    def gradient(self, score: Tensor, *, is_kept: bool = False) -> Tensor:
        """Return ∂ score / ∂ output of the layer; frees the graph above the layer unless `is_kept`.

        Raises `UnsupportedOperation` if autograd knows no derivative.
        """
        slope = derivatives(score, [self.edge], way_out=WAY_OUT, retain_graph=is_kept)[0]
        assert slope is not None
        return slope

    def to_image(self, cotangent: Tensor) -> Tensor:
        """Backpropagate a cotangent of the layer's output to the image."""
        # retained, since the next score uses the same part of the graph
        return torch.autograd.grad([self.edge], self.leaf, cotangent, retain_graph=True)[0]


_LAYERS = {"ConvolutionBackward0": "_saved_weight", "AddmmBackward0": "_saved_mat2", "MmBackward0": "_saved_mat2"}
"""Backward nodes of linear layers, and the attribute in which autograd saves the weight."""
_SCALES = {"DivBackward0": "_saved_other", "MulBackward0": "_saved_other"}
"""Operations allowed before the layer if their constant belongs to the model, as in a normalization."""
_MOVES = {"CloneBackward0", "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "SubBackward0"}
"""Operations allowed before the layer with any constants, since their derivative does not depend on them."""


def entrance_of(score: Tensor, leaf: Tensor, model: nn.Module) -> Entrance | None:
    """Return the entrance of `leaf` to the graph of `score`: the one linear layer of the frozen `model` that uses it.

    None if the image is used in several places, or first by an operation that is not linear.
    """
    users = _users(score)
    # a weight computed during the pass may depend on the image, so only those stored in the model count
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
    """Map each node in the graph of `score` to the nodes that use its output, once per use."""
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
