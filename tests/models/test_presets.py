"""Preprocessing of torchvision's weights and of users' functions: the same pixels as the originals."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import (
    EfficientNet_B1_Weights,
    Inception_V3_Weights,
    MaxVit_T_Weights,
    RegNet_Y_16GF_Weights,
    ResNet18_Weights,
    Swin_V2_T_Weights,
)

from pellucid.core.errors import ConfigError
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._preprocessing import choose_preprocessing, find_preprocessing

SIZES = [(97, 131), (131, 97), (301, 299), (64, 64), (33, 500), (7, 11)]
"""Width and height, smaller and larger than the crops, with odd differences."""


def picture(size, mode="RGB", seed=0):
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def inputs(steps, image):
    """The model's input: the picture as bytes, then normalized."""
    pixels = np.asarray(steps.picture(image))
    pixels = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    return steps.normalized(pixels.float() / 255)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "weights",
    [
        ResNet18_Weights.IMAGENET1K_V1,
        EfficientNet_B1_Weights.IMAGENET1K_V2,
        Inception_V3_Weights.IMAGENET1K_V1,
        MaxVit_T_Weights.IMAGENET1K_V1,
        RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1,
        Swin_V2_T_Weights.IMAGENET1K_V1,
    ],
    ids=str,
)
def test_torchvisions_weights_give_the_same_input(weights, size):
    steps = choose_preprocessing(nn.Identity(), preprocess=weights)
    image = picture(size)
    expected = weights.transforms()(image)
    torch.testing.assert_close(inputs(steps, image), expected, atol=2e-6, rtol=0)
    assert steps == choose_preprocessing(nn.Identity(), preprocess=weights.transforms()).__class__(
        steps.mean, steps.std, steps.resize, steps.crop, steps.interpolation, source=str(weights)
    )


NORMALIZE = transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose([transforms.Resize((40, 50)), transforms.ToTensor(), NORMALIZE]),
        transforms.Compose(
            [transforms.Resize(70, max_size=90), transforms.CenterCrop(50), transforms.ToTensor(), NORMALIZE]
        ),
        transforms.Compose([transforms.Pad(3), transforms.Resize((21, 34)), transforms.ToTensor(), NORMALIZE]),
    ],
)
def test_a_compose_that_ends_with_normalize_is_undone_by_it(transform, size):
    steps = choose_preprocessing(nn.Identity(), preprocess=transform)
    assert steps.mean == pytest.approx((0.4, 0.5, 0.6))
    image = picture(size)
    torch.testing.assert_close(inputs(steps, image), transform(image), atol=2e-6, rtol=0)


def half(image):
    return (transforms.functional.to_tensor(image.resize((5, 3))) - 0.5) / 0.25


def test_a_function_with_mean_and_std_gives_the_same_input():
    steps = choose_preprocessing(nn.Identity(), preprocess=half, mean=0.5, std=0.25)
    image = picture((30, 20))
    assert steps.picture(image).size == (5, 3)
    torch.testing.assert_close(inputs(steps, image), half(image), atol=2e-6, rtol=0)
    with pytest.raises(ConfigError, match="do not undo preprocess=half: its values become"):
        choose_preprocessing(nn.Identity(), preprocess=half, mean=0.5, std=0.5).picture(
            Image.new("RGB", (9, 9), "white")
        )


def test_a_function_alone_is_returned_as_it_is():
    assert choose_preprocessing(nn.Identity(), preprocess=half) is half
    with pytest.raises(ConfigError, match="image_size and crop cannot change a function"):
        choose_preprocessing(nn.Identity(), preprocess=half, crop=8)


def test_gray_pictures_become_rgb_for_a_normalization_of_three_channels():
    weights = ResNet18_Weights.IMAGENET1K_V1
    image = picture((50, 40), "L")
    expected = weights.transforms()(image.convert("RGB"))
    steps = choose_preprocessing(nn.Identity(), preprocess=weights)
    torch.testing.assert_close(inputs(steps, image), expected, atol=2e-6, rtol=0)
    # and so do gray tensors
    gray = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(steps.normalized(gray), steps.normalized(gray.expand(2, 3, 4, 4)))


KNOWN = Preprocessing((0.5,), (0.25,), resize=256, crop=(224, 224), source="known")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, KNOWN),
        ({"image_size": 112}, Preprocessing((0.5,), (0.25,), resize=128, crop=(112, 112), source="known, size given")),
        ({"crop": 200}, Preprocessing((0.5,), (0.25,), resize=256, crop=(200, 200), source="known, size given")),
        (
            {"image_size": 100, "crop": 90},
            Preprocessing((0.5,), (0.25,), resize=100, crop=(90, 90), source="known, size given"),
        ),
        (
            {"mean": [0.1, 0.2, 0.3], "std": 0.5},
            None,
        ),
        (
            {"mean": 0.1, "std": 0.5},
            Preprocessing((0.1,), (0.5,), resize=256, crop=(224, 224), source="known, mean and std given"),
        ),
    ],
)
def test_what_the_user_gives_replaces_what_is_known(given, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="mean has 3 values and std has 1"):
            choose_preprocessing(nn.Identity(), KNOWN, **given)
    else:
        assert choose_preprocessing(nn.Identity(), KNOWN, **given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": 0.5}, "mean is given without std"),
        ({"std": [1, 1, 1]}, "std is given without mean"),
        ({"mean": 0.5, "std": 0}, "must be positive"),
        ({"crop": 300}, "crop 300 is larger than 256"),
        ({"image_size": 64, "crop": 65}, "crop 65 is larger than image_size 64"),
        ({"image_size": 0}, "image_size is 0"),
        ({"preprocess": 7}, "preprocess is a int; expected"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        choose_preprocessing(nn.Identity(), KNOWN, **given)


def test_nothing_is_known_about_a_users_module():
    assert find_preprocessing(nn.Identity()) is None
    steps = choose_preprocessing(nn.Identity())
    assert steps == Preprocessing()
    image = picture((13, 9))
    assert steps.picture(image) is image
    assert choose_preprocessing(nn.Identity(), image_size=8).picture(image).size == (8, 8)
