"""Conversion of the preprocessing descriptions of torchvision, timm and transformers."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.preprocessing import Preprocessing

__all__ = ["from_function", "from_processor", "from_timm", "from_torchvision"]

PROBE_SIZE = (53, 37)
"""Width and height of the test image on which derived steps are compared with the original ones."""
ROUNDING = 1e-3
"""Tolerance for rounding: largest deviation from [0, 1], and from the original steps."""


def from_torchvision(weights: Any) -> Preprocessing:
    """Return the preprocessing of a torchvision weights enum member, or of its `transforms()`.

    >>> from torchvision.models import ResNet18_Weights
    >>> steps = from_torchvision(ResNet18_Weights.IMAGENET1K_V1)
    >>> steps.resize, steps.crop, steps.mean
    (256, (224, 224), (0.485, 0.456, 0.406))
    """
    preset = weights.transforms() if hasattr(weights, "transforms") else weights
    resize, crop = (list(value) for value in (preset.resize_size, preset.crop_size))
    return Preprocessing(
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        crop=(crop[0], crop[-1]),
        interpolation=preset.interpolation.value.removesuffix("-exact"),
        source=str(weights) if hasattr(weights, "transforms") else type(preset).__name__,
    )


def from_timm(config: dict[str, Any], source: str) -> Preprocessing:
    """Return the preprocessing of a data config of timm (`timm.data.resolve_data_config`)."""
    steps = import_module("timm.data").create_transform(**config, is_training=False).transforms
    pictures = [step for step in steps if type(step).__name__ not in ("ToTensor", "MaybeToTensor", "Normalize")]
    resize, crop = _resize_and_crop(pictures)
    return Preprocessing(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=resize,
        crop=crop,
        interpolation=config["interpolation"],
        source=source,
        function=None if resize is not None else _chained(pictures),
    )


def _resize_and_crop(steps: list[Any]) -> tuple[Any, Any]:
    """Return the sizes of torchvision's `Resize` and `CenterCrop`; None twice for any other steps."""
    if [type(step).__name__ for step in steps] != ["Resize", "CenterCrop"] or steps[0].max_size is not None:
        return None, None
    resize, crop = steps[0].size, steps[1].size
    resize = resize if isinstance(resize, int) else resize[0] if len(resize) == 1 else tuple(resize)
    return resize, (crop[0], crop[-1])


def _chained(steps: list[Callable[[Any], Any]]) -> Callable[[Image.Image], Image.Image]:
    def chained(picture: Image.Image) -> Image.Image:
        for step in steps:
            picture = step(picture)
        return picture

    return chained


def from_processor(processor: Any, source: str) -> Preprocessing:
    """Return the preprocessing of an image processor of transformers.

    The processor itself resizes and crops, because its rounding differs from Pillow's and between processors. Its
    normalization is derived from its outputs for a black and a white image. Raises `ConfigError` if it does
    more than this, such as cutting the image into tiles.
    """

    def inputs(picture: Image.Image) -> Tensor:
        return torch.as_tensor(processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"])[0]

    refused = f"the image processor of {source} ({type(processor).__name__}) cannot be used: "
    try:
        black, white = (inputs(Image.new("RGB", PROBE_SIZE, color)).double() for color in ("black", "white"))
        mean, std = _as_written(processor, -black.amin((1, 2)) / (white - black).amax((1, 2)), white - black)
        steps = from_function(inputs, mean, std, source, **_sizes(processor))
        if max(map(abs, mean)) < 1e-6 and all(abs(value - 1) < 1e-6 for value in std):
            steps = replace(steps, mean=None, std=None)
        noise = np.random.default_rng(0).integers(0, 256, (*PROBE_SIZE[::-1], 3), dtype=np.uint8)
        expected = inputs(Image.fromarray(noise))
        received = steps.normalized(pixels_of(steps.picture(Image.fromarray(noise))) / 255)
        # one gray level, for processors that compute with floats
        agrees = len(mean) == 3 and bool((expected - received).abs().max() < 1.01 / 255 / min(std))
    except Exception as error:
        raise ConfigError(
            f"{refused}{type(error).__name__}: {error}. Pass preprocess=, or the sizes, mean and std."
        ) from error
    if not agrees:
        raise ConfigError(
            f"{refused}it does more than resize, crop and normalize RGB images. Pass preprocess=, or the sizes, mean "
            "and std."
        )
    return steps


def _as_written(processor: Any, mean: Tensor, spans: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the measured mean and std, or the exact values in the processor's file if they agree."""
    std = 1 / spans.amax((1, 2))
    for name, measured in (("image_mean", mean), ("image_std", std)):
        written = getattr(processor, name, None)
        written = torch.as_tensor([] if written is None else written).double()
        if written.shape == measured.shape and torch.allclose(written, measured, atol=1e-5):
            measured.copy_(written)
    return tuple(mean.tolist()), tuple(std.tolist())


def _sizes(processor: Any) -> dict[str, Any]:
    """Return the sizes that replace the processor's steps when the user changes one of them."""
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    both, shorter = (size.get("height"), size.get("width")), size.get("shortest_edge")
    cropped = (crop.get("height"), crop.get("width")) if getattr(processor, "do_center_crop", False) else (None, None)
    resample = Image.Resampling.BILINEAR if processor.resample is None else Image.Resampling(int(processor.resample))
    return {
        "resize": (both if None not in both else shorter) if processor.do_resize else None,
        "crop": cropped if None not in cropped else None,
        "interpolation": resample.name.lower(),
    }


def from_function(
    function: Callable[[Image.Image], Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    source: str,
    **sizes: Any,
) -> Preprocessing:
    """Return the preprocessing of a function from a PIL image to the model's input, normalized by `mean` and `std`.

    Displayed images are rounded to uint8. `sizes` are the size fields of `Preprocessing`.
    """
    normalization = Preprocessing(mean, std)

    def displayed(picture: Image.Image) -> Image.Image:
        inputs = torch.as_tensor(function(picture))
        images = normalization.displayed(inputs.float())
        low, high = images.min().item(), images.max().item()
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # written this way, the test also rejects NaN
            raise ConfigError(
                f"mean {mean} and std {std} do not undo preprocess={source}: its values become {low:g} to {high:g} "
                "instead of 0 to 1. Pass the mean and std that it normalizes with."
            )
        return to_picture(images.clamp(0, 1).mul(255).round())

    return Preprocessing(mean, std, source=source, function=displayed, **sizes)


def to_picture(values: Tensor) -> Image.Image:
    """Return (channel, height, width) values in 0…255 as a PIL image."""
    pixels = values.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def pixels_of(picture: Image.Image) -> Tensor:
    """Return the (channel, height, width) bytes of a PIL image."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
