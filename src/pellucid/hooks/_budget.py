"""Allowances of hooks under a budget, in counted FLOPs.

The unit is a forward pass of one image. A hook creates its `Allowance`, measures the cost of its work on one image,
and uses as many images, classes or steps as it can afford. Without a budget, nothing is measured or limited.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pellucid.core.budget import Budget
from pellucid.core.isolation import isolated
from pellucid.engine.model import dtype_of, frozen
from pellucid.hooks._hook import Scene
from pellucid.jacobians import jacobian
from pellucid.jacobians._native.decision import decided

__all__ = ["SHARES", "TOO_EXPENSIVE", "Allowance", "price_of_jacobian"]

TOO_EXPENSIVE = "the budget (--budget) does not cover explaining one image by {name}."
"""Reason for leaving out a method."""

SHARES: Mapping[str, float] = {
    "logits": 0.05,
    "embedding": 0.05,
    "saliency": 0.02,
    "hardest": 0.02,
    "jacobian_maps": 0.10,
    "jacobian_classes": 0.08,
    "explanations": 0.10,
    "prototypes.each_epoch": 0.05,
    "jacobian_classes_all": 0.09,
    "gallery": 0.11,
    "leaderboard": 0.11,
    "layers": 0.02,
    "live": 0.01,
    "prototypes": 0.07,
    "influence": 0.02,
    "label_errors": 0.01,
    "out_of_distribution": 0.02,
    "robustness": 0.05,
    "concepts": 0.02,
}
"""Share of the total for each hook, the logits of the test images, and the embedding that two hooks use. The other
hooks compute nothing with the network."""

_PRICES: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], dict[str, float]]] = WeakKeyDictionary()
"""Measured costs by model and image shape."""


class Allowance:
    """Remaining budget of a hook, in forward passes of one image; infinite without a budget."""

    def __init__(self, scene: Scene, hook: str) -> None:
        self.scene, self.budget = scene, scene.budget
        self.left = math.inf if self.budget is None else SHARES[hook] * self.budget.image_passes

    @property
    def is_limited(self) -> bool:
        """True if there is a budget."""
        return self.budget is not None

    def images(self, most: int) -> int:
        """Return the maximum number of images: `most`, or less under a budget."""
        return most if self.budget is None else min(most, self.budget.images)

    def classes(self, most: int) -> int:
        """Return the maximum number of classes processed individually: `most`, or less under a budget."""
        return most if self.budget is None else min(most, self.budget.classes)

    @staticmethod
    def evaluations_of(budget: Budget) -> int:
        """Number of gradients per map for methods that average over many: 8 to 32, growing with the budget."""
        return min(32, max(8, budget.passes * 2 // 5))

    def price(self, key: str, compute: Callable[[], object]) -> float:
        """Return the cost of `compute`, which processes one image; 0 without a budget, where nothing is computed.

        The cost is measured once for a model and kept for all hooks and epochs, because the number of FLOPs does not
        depend on the weights. Every hook pays for the measurement, so that its numbers do not depend on what ran before
        it. Errors of `compute` pass through.
        """
        if not self.is_limited:
            return 0.0
        prices, _ = self._prices, self._forward
        if key in prices:
            self.left -= prices[key]
        else:
            before = self.left
            with self.spending():
                compute()
            prices[key] = before - self.left
        return prices[key]

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the FLOPs of the body and subtract them."""
        if not self.is_limited:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        forward, counter = self._forward, FlopCounterMode(display=False)
        try:
            # the native kernel's FLOPs cannot be counted, and what a budget covers must not depend on a compiler
            with counter, decided(lambda: False):
                yield
        finally:
            # a model without matrix products has no FLOPs to count, and nothing to limit
            self.left -= counter.get_total_flops() / max(forward, 1)

    def passes(self, flops: float) -> float:
        """Convert FLOPs to forward passes of one image; 0 without a budget."""
        return flops / max(self._forward, 1) if self.is_limited else 0.0

    def affordable(self, price: float, most: int, calls: int = 1) -> int:
        """Return the number of images that the budget covers at this price each, at most `most`.

        Two forward passes are set aside for each of `calls` computations, which may check a batch by running its first
        image alone.
        """
        return most if price <= 0 or not self.is_limited else max(0, min(most, int((self.left - 2 * calls) / price)))

    @cached_property
    def _forward(self) -> float:
        """FLOPs of a forward pass of one image; the measurement itself costs one forward pass."""
        self.left -= 1
        known = self._prices
        if "forward" not in known:
            from torch.utils.flop_counter import FlopCounterMode

            counter, image = FlopCounterMode(display=False), self.scene.test.floats([0]).to(self.scene.device)
            with isolated(), frozen(self.scene.model) as model, torch.no_grad(), counter:
                model(image.to(dtype_of(self.scene.model)))
            known["forward"] = counter.get_total_flops()
        return known["forward"]

    @cached_property
    def _prices(self) -> dict[str, float]:
        """Measured costs of the model on images of this shape."""
        return _PRICES.setdefault(self.scene.model, {}).setdefault(self.scene.test.image_shape, {})


def price_of_jacobian(scene: Scene, allowance: Allowance, outputs: list[int] | None) -> float:
    """Return the cost of one image's Jacobian, in forward passes; `outputs` are its classes, None for all."""
    count = scene.logits.shape[1] if outputs is None else len(outputs)
    image = scene.test.floats([0]).to(scene.device)
    return allowance.price(f"jacobian of {count} classes", lambda: jacobian(scene.model, image, outputs))
