"""The trained network of aug-net, rebuilt from the reference weights."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["augnet"]


class Separable(nn.Module):
    """Depthwise 20×20 convolution with multiplier 3, then a pointwise one, with the "same" padding of Keras."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((9, 10, 9, 10))
        self.depthwise = nn.Conv2d(channels, 3 * channels, 20, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(3 * channels, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(self.pad(x)))


class ChannelsLast(nn.Module):
    """Flattens in (height, width, channel) order, as Keras does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def augnet(shared: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network in float64 and eval mode, and the reference arrays as tensors (image: (1, 1, 256, 256))."""
    with np.load(shared / "reference" / "augnet" / "reference.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "layer_config"}
    weights = {name.removeprefix("w:"): value.double() for name, value in arrays.items() if name.startswith("w:")}
    parts: list[nn.Module] = []
    for number, (channels, filters) in enumerate([(1, 12), (12, 24), (24, 48), (48, 96)]):
        parts += [_separable(weights, number, channels, filters), nn.ReLU()]
        parts += [_norm(weights, number - 2, filters)] if number >= 2 else []
        parts += [nn.MaxPool2d(2)]
    parts += [ChannelsLast()]
    for number in range(4):
        parts += [_dense(weights, _key("dense", number)), nn.ReLU()]
    arrays["input"] = arrays["input"][None, None]
    return nn.Sequential(*parts[:-1]).double().eval(), arrays


def _key(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _separable(weights: dict[str, Tensor], number: int, channels: int, filters: int) -> nn.Module:
    layer, key = Separable(channels, filters), _key("separable_conv2d", number)
    depthwise = weights[f"{key}/depthwise_kernel"].permute(2, 3, 0, 1)
    layer.depthwise.weight.data = depthwise.reshape(3 * channels, 1, 20, 20).contiguous()
    layer.pointwise.weight.data = weights[f"{key}/pointwise_kernel"][0, 0].T[:, :, None, None].contiguous()
    layer.pointwise.bias.data = weights[f"{key}/bias"]
    return layer


def _norm(weights: dict[str, Tensor], number: int, channels: int) -> nn.Module:
    layer, key = nn.BatchNorm2d(channels, eps=1e-3), _key("batch_normalization", number)
    layer.weight.data, layer.bias.data = weights[f"{key}/gamma"], weights[f"{key}/beta"]
    layer.running_mean, layer.running_var = weights[f"{key}/moving_mean"], weights[f"{key}/moving_variance"]
    return layer


def _dense(weights: dict[str, Tensor], key: str) -> nn.Module:
    kernel = weights[f"{key}/kernel"]
    layer = nn.Linear(*kernel.shape)
    layer.weight.data, layer.bias.data = kernel.T.contiguous(), weights[f"{key}/bias"]
    return layer
