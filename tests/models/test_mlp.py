"""The fully connected network."""

from torch import nn

from pellucid.models.mlp import mlp


def test_layers_are_784_300_100_10():
    layers = [module for module in mlp(channels=1, classes=10, image_size=(28, 28)) if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(784, 300), (300, 100), (100, 10)]
