"""Random numbers, as a control: a method that does no better is no better than chance."""

from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution.input import Control
from pellucid.core.seeding import generator


@METHODS.register("random")
@dataclass(frozen=True)
class Random(Control):
    """R ~ N(0, 1), seeded by `seed` and the image's bytes: the same image always has the same map."""

    answers: ClassVar[str] = "nothing: random numbers (a control)"
    promises: ClassVar[frozenset[str]] = frozenset()

    seed: int = 0

    def draw(self, images: Tensor) -> Tensor:
        return torch.stack([self._draw_one(image) for image in images])

    def _draw_one(self, image: Tensor) -> Tensor:
        digest = sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        # Drawn in float64 on the CPU: the same map on every device.
        source = generator(self.seed, "random", digest)
        return torch.randn(image.shape, generator=source, dtype=torch.float64, device="cpu").to(image)
