"""A small network, small images and the scene of a hook."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.hooks import Scene

CLASSES = ("$disk_1$", "a\tname of\nseveral lines", "猫", "empty")


def make_images(count: int, channels: int, size: tuple[int, int], classes: int = 3) -> ImageSet:
    """Return noise with a bright bar whose position determines the class; the last class has no images."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=random)
    pixels = torch.randint(0, 90, (count, channels, *size), generator=random)
    rows = (labels + 1) * size[0] // (classes + 1)
    pixels[torch.arange(count), :, rows] += 150
    return ImageSet(pixels.to(torch.uint8), labels)


def make_network(channels: int, size: tuple[int, int]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(6 * size[0] * size[1], 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def logits_of(model: nn.Module, test: ImageSet) -> torch.Tensor:
    was_training = model.training
    parameter = next(model.parameters())
    with torch.no_grad():
        logits = model.eval()(test.floats().to(parameter.dtype))
    model.train(was_training)
    return logits


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    """Create the scene of a new network; keyword arguments set the images or replace parts of the scene."""

    def make(*, count: int = 60, channels: int = 1, size: tuple[int, int] = (9, 9), **changes: Any) -> Scene:
        test = make_images(count, channels, size)
        model = changes.pop("model", None) or make_network(channels, size)
        scene = Scene(
            epoch=2,
            model=model,
            device=torch.device("cpu"),
            test=test,
            logits=logits_of(model, test),
            classes=CLASSES,
            data_title="Bars",
            seed=0,
            train=test,
        )
        return replace(scene, **changes)

    return make
