"""The edges of the image, as a control: a method that does no better is an edge detector."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution.input import Control
from pellucid.core.errors import ShapeError


@METHODS.register("sobel")
@dataclass(frozen=True)
class Sobel(Control):
    """√(gₓ² + g_y²) with Sobel filters in each channel and replicate padding."""

    answers: ClassVar[str] = "where the image has edges (a control)"
    takes_several_inputs: ClassVar[bool] = False

    def draw(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ShapeError(f"sobel needs images of shape (batch, channel, height, width), got {tuple(images.shape)}.")
        smooth, slope = images.new_tensor([1.0, 2.0, 1.0]), images.new_tensor([-1.0, 0.0, 1.0])
        across = smooth[:, None] * slope  # the horizontal Sobel filter; its transpose is the vertical one
        # Channels are filtered separately, as images of one channel.
        planes = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        edges = F.conv2d(planes, torch.stack([across, across.T])[:, None])
        return edges.square().sum(1).sqrt().reshape(images.shape)
