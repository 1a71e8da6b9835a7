"""Four narrow convolutions and one linear layer: small enough to trace by hand."""

from torch import nn

from pellucid.core.errors import ModelError
from pellucid.models import MODELS

SMALLEST_SIDE = 9
"""Four unpadded 3×3 convolutions shrink each side by eight pixels."""


@MODELS.register("basic")
def basic(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build four 3×3 convolutions of 8 channels with ReLU, no padding and no normalization, and one linear layer.

    Args:
        channels: number of image channels.
        classes: number of logits.
        image_size: height and width in pixels.

    Raises:
        ModelError: for images smaller than 9×9.

    >>> import torch
    >>> basic(channels=1, classes=10, image_size=(28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    height, width = image_size
    if min(height, width) < SMALLEST_SIDE:
        raise ModelError(
            f"the model 'basic' needs images of at least {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels, got "
            f"{height}×{width}; enlarge them with --image-size, or choose --model mlp."
        )
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (height - 8) * (width - 8), classes),
    )
