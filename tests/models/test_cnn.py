"""The default convolutional network."""

import torch
from torch import nn

from pellucid.models.cnn import cnn


def test_it_has_no_max_pooling_and_no_final_activation():
    model = cnn(channels=1, classes=10, image_size=(28, 28))
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    assert isinstance(list(model)[-1], nn.Linear)
    model.eval()
    assert model(torch.rand(64, 1, 28, 28)).min() < 0


def test_the_linear_layer_stays_small_for_large_images():
    small, large = (cnn(channels=3, classes=5, image_size=(side, side)) for side in (32, 224))
    assert list(small)[-1].in_features == list(large)[-1].in_features == 72 * 16
