"""The default network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pellucid.models import count_parameters
from pellucid.models.small_cnn import small_cnn


def test_its_size_on_mnist_and_its_layers():
    model = small_cnn(channels=1, classes=10, image_size=(28, 28))
    # kernels and two numbers per channel of a batch norm, then the linear layer on 64 maps of 3×3
    assert count_parameters(model) == 16 * 36 + 32 + 32 * 16 * 9 + 64 + 64 * 32 * 9 + 128 + 576 * 10 + 10 == 29610
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    assert isinstance(list(model)[-1], nn.Linear)
    assert model.eval()(torch.rand(64, 1, 28, 28)).min() < 0


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 28, 29, 64, 65, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_of_any_image_size_enters_the_first_layer(side, channels):
    for size in ((side, side), (side, 28), (11, side)):
        model = small_cnn(channels, 4, size).eval()
        images = torch.zeros(2, channels, *size, requires_grad=True)
        assert model(images).shape == (2, 4)
        assert list(model)[-1].in_features <= 64 * 16
        first = model[0]
        windows = F.conv2d(images, torch.ones_like(first.weight), stride=first.stride, padding=first.padding)
        assert torch.autograd.grad(windows.sum(), images)[0].min() > 0


def test_pixels_enter_equally_many_windows_away_from_the_border():
    first = small_cnn(1, 10, (28, 28))[0]
    images = torch.zeros(1, 1, 28, 28, requires_grad=True)
    windows = F.conv2d(images, torch.ones(1, 1, *first.kernel_size), stride=first.stride, padding=first.padding)
    counts = torch.autograd.grad(windows.sum(), images)[0][0, 0]
    assert counts[4:-4, 4:-4].unique().tolist() == [9.0]
