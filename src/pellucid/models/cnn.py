"""Four convolutions and one linear layer: accurate on small images."""

from math import ceil

import torch
from torch import nn

from pellucid.models import MODELS

LARGEST_MAP = 4
"""Larger feature maps are average-pooled to this size before the linear layer."""


@MODELS.register("cnn")
def cnn(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build four convolutions with batch norm and ReLU, three of them with stride 2, and one linear layer.

    About 77,000 parameters on MNIST. There is no max-pooling, because ties on a flat background have no derivative. The
    weights are stored in channels-last format, which saves the CPU kernels a reordering.

    Args:
        channels: number of image channels.
        classes: number of logits.
        image_size: height and width in pixels, each at least 1.

    >>> import torch
    >>> cnn(channels=1, classes=10, image_size=(28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    # with padding kernel // 2, each of the three strides of 2 halves a side, rounding up
    height, width = (ceil(side / 8) for side in image_size)
    pooled = (min(height, LARGEST_MAP), min(width, LARGEST_MAP))
    shrink = [] if pooled == (height, width) else [nn.AdaptiveAvgPool2d(pooled)]
    layers = nn.Sequential(
        *_block(channels, 16, kernel=5, stride=2),
        *_block(16, 32, kernel=3, stride=2),
        *_block(32, 64, kernel=3, stride=1),
        *_block(64, 72, kernel=3, stride=2),
        *shrink,
        nn.Flatten(),
        nn.Linear(72 * pooled[0] * pooled[1], classes),
    )
    return layers.to(memory_format=torch.channels_last)


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    # no bias, because the batch norm subtracts the mean and adds its own
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
