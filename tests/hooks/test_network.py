"""The hook `network`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.hooks import Scene
from pellucid.hooks.network import Network


def test_layers_and_filters_are_stored(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    (artifact,) = Network().run(scene)
    numbers = artifact.numbers
    assert numbers["parameters"] == sum(one.numel() for one in scene.model.parameters())
    assert sum(row["parameters"] for row in numbers["layers"]) == numbers["parameters"]
    assert f"network of {len(numbers['layers'])} layers" in artifact.caption


def test_color_filters_are_drawn_around_gray(make_scene: Callable[..., Scene]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 70, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(70 * 64, 4))
    test = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
    scene = replace(make_scene(), model=model, test=test, logits=torch.zeros(4, 4))
    (artifact,) = Network().run(scene)
    np.testing.assert_array_equal(artifact.arrays["filters"], model[0].weight[:64].detach())
    assert artifact.numbers["filters"] == 70
    assert artifact.figure is not None
    drawn = np.asarray(artifact.figure.axes[0].images[0].get_array())
    limit = np.abs(model[0].weight[:64].detach().numpy()).max()
    assert abs(drawn[1, 1] - (0.5 + model[0].weight[0, :, 1, 1].detach().numpy() / (2 * limit))).max() < 0.05
