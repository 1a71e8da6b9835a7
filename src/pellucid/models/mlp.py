"""A fully connected network, the classic of LeCun et al. (1998) for MNIST."""

from torch import nn

from pellucid.models import MODELS


@MODELS.register("mlp")
def mlp(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build two hidden layers of 300 and 100 ReLU units on the flattened image.

    Args:
        channels: number of image channels.
        classes: number of logits.
        image_size: height and width in pixels.

    >>> import torch
    >>> mlp(channels=1, classes=10, image_size=(28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    pixels = channels * image_size[0] * image_size[1]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
