"""The default network: three strided convolutions, fast and accurate on small images."""

from math import ceil

import torch
from torch import nn

from pellucid.models import MODELS

KERNEL = 6
"""Size of the first kernel. A multiple of its stride 2: all pixels enter equally many windows, so saliency maps show
no checkerboard."""
LARGEST_MAP = 4
"""Larger feature maps are average-pooled to this size before the linear layer."""


@MODELS.register("small_cnn")
def small_cnn(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build three convolutions of stride 2 with batch norm and ReLU, and one linear layer.

    About 30,000 parameters on MNIST. There is no max-pooling, because ties on a flat background have no derivative. The
    weights are stored in channels-last format, which saves the CPU kernels a reordering.

    Args:
        channels: number of image channels.
        classes: number of logits.
        image_size: height and width in pixels, each at least 1.

    >>> import torch
    >>> small_cnn(channels=1, classes=10, image_size=(28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    padding = (_padding(image_size[0]), _padding(image_size[1]))
    height, width = (_map_side(side) for side in image_size)
    pooled = (min(height, LARGEST_MAP), min(width, LARGEST_MAP))
    shrink = [] if pooled == (height, width) else [nn.AdaptiveAvgPool2d(pooled)]
    layers = nn.Sequential(
        *_block(channels, 16, KERNEL, padding),
        *_block(16, 32, 3, (1, 1)),
        *_block(32, 64, 3, (1, 1)),
        *shrink,
        nn.Flatten(),
        nn.Linear(64 * pooled[0] * pooled[1], classes),
    )
    return layers.to(memory_format=torch.channels_last)


def _padding(side: int) -> int:
    """Return the padding with which the windows of the first layer cover a side completely."""
    # an odd side would lose its last pixel, and one below 6 has no window at all
    return max(side % 2, ceil((KERNEL - side) / 2))


def _map_side(side: int) -> int:
    """Return the side of the last feature map."""
    # the two padded 3×3 convolutions halve a side, rounding up
    return ceil(((side + 2 * _padding(side) - KERNEL) // 2 + 1) / 4)


def _block(inputs: int, outputs: int, kernel: int, padding: tuple[int, int]) -> list[nn.Module]:
    # no bias, because the batch norm subtracts the mean and adds its own
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
