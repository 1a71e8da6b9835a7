"""The small convolutional network."""

import pytest
from torch import nn

from pellucid.core.errors import ModelError
from pellucid.models.basic import basic


def test_it_has_four_convolutions_and_one_linear_layer():
    kinds = [type(module) for module in basic(channels=1, classes=10, image_size=(28, 28))]
    assert kinds.count(nn.Conv2d) == 4
    assert kinds.count(nn.Linear) == 1


def test_images_too_small_are_refused():
    with pytest.raises(ModelError, match="at least 9×9 pixels, got 8×8"):
        basic(channels=1, classes=10, image_size=(8, 8))
