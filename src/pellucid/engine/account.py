"""The conservation ledger: relevance absorbed by biases, stabilizers and constants, per image.

Each rule computes what it absorbs by its own formula, never as the difference to the logit, which would hide errors.
"""

from collections import defaultdict
from typing import Literal

import torch
from torch import Tensor

from pellucid.engine.tape import Node

__all__ = ["ABSORBERS", "Account"]

Absorber = Literal["bias", "stabiliser", "constant"]
ABSORBERS: tuple[Absorber, ...] = ("bias", "stabiliser", "constant")
"""The sinks of relevance: each takes a share of the logit that reaches no pixel."""


class Account:
    """Per-image sums of absorbed relevance, by absorber and by operation."""

    def __init__(self, images: int, dtype: torch.dtype, device: torch.device) -> None:
        self.images = images
        self._zero = torch.zeros(images, dtype=dtype, device=device)
        self.absorbed: dict[str, Tensor] = dict.fromkeys(ABSORBERS, self._zero)
        self.by_place: dict[str, Tensor] = defaultdict(lambda: self._zero)
        """Relevance absorbed as a constant at each place, keyed `operation in module`."""

    def absorb(self, absorber: Absorber, node: Node, amount: Tensor) -> None:
        """Record `amount`, which has the shape of the node's output."""
        per_image = self._per_image(amount, node.batch_axis)
        self.absorbed[absorber] = self.absorbed[absorber] + per_image
        if absorber == "constant":
            self.by_place[node.place] = self.by_place[node.place] + per_image

    def _per_image(self, amount: Tensor, axis: int) -> Tensor:
        if self.images == 1:
            return amount.sum().reshape(1)
        if axis:
            amount = amount.movedim(axis, 0)
        return amount.reshape(self.images, -1).sum(1)
