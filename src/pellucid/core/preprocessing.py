"""Image preprocessing: resize, center crop and normalization."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.raster import MOST_PIXELS

__all__ = ["Preprocessing"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Preprocessing:
    """Steps from a PIL image to a model's input: resize, center crop, scale to [0, 1], normalize per channel.

    A *displayed* image is in [0, 1]; a *normalized* one is (displayed − mean) / std, the input of a model that expects
    it. Without `mean` and `std`, both are the same.

    Raises `ConfigError` for a `std` that is not positive, or `mean` and `std` of different lengths.

    >>> steps = Preprocessing(mean=(0.5,), std=(0.25,), resize=8, crop=(4, 4))
    >>> steps.picture(Image.new("L", (32, 16))).size
    (4, 4)
    >>> steps.normalized(torch.full((1, 1, 2, 2), 0.75)).unique()
    tensor([1.])
    """

    mean: tuple[float, ...] | None = None
    """Mean of each channel, in displayed units."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, in displayed units."""
    resize: int | tuple[int, int] | None = None
    """Length of the shorter side, or (height, width), before the crop; None keeps the image's size."""
    crop: tuple[int, int] | None = None
    """(height, width) of the center crop; None for no crop."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    source: str = ""
    """Origin of these values, for messages, such as "ResNet18_Weights.IMAGENET1K_V1"."""
    function: Callable[[Image.Image], Image.Image] | None = field(default=None, repr=False)
    """Function from a PIL image to the displayed image, in place of `resize` and `crop`, for steps that these cannot
    express."""

    def __post_init__(self) -> None:
        """Validate `mean` and `std`; sequences become tuples."""
        for name in ("mean", "std", "crop"):
            value: Any = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.resize, list):
            object.__setattr__(self, "resize", tuple(self.resize))
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ConfigError(f"{given} is given without {missing}; normalization needs both.")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise ConfigError(
                    f"mean has {len(self.mean)} values and std has {len(self.std)}; pass one of each per channel."
                )
            if not all(value > 0 for value in self.std):
                raise ConfigError(f"std is {self.std}; every value must be positive.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation is {self.interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}.")

    def picture(self, picture: Image.Image) -> Image.Image:
        """Resize and crop an image, as torchvision's transforms do; smaller images are padded with black.

        A gray image becomes RGB if `mean` has three values.
        """
        if self.mean is not None and len(self.mean) == 3 and picture.mode == "L":
            picture = picture.convert("RGB")
        if self.function is not None:
            return self.function(picture)
        if self.resize is not None:
            width, height = self._size_of(picture)
            if width * height > max(
                MOST_PIXELS, picture.width * picture.height
            ):  # a narrow strip would fill the memory
                raise ShapeError(
                    f"a picture of {picture.width}×{picture.height} pixels would be resized to {width}×{height}, more "
                    f"than {MOST_PIXELS / 1e6:g} megapixels; crop it first."
                )
            picture = picture.resize((width, height), INTERPOLATIONS[self.interpolation])
        if self.crop is None:
            return picture
        height, width = self.crop
        left, top = _margin(picture.width, width), _margin(picture.height, height)
        # `crop` beyond the borders pads with black
        return picture.crop((left, top, left + width, top + height))

    def _size_of(self, picture: Image.Image) -> tuple[int, int]:
        """Return the width and height to which `picture` is resized."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        short, long = sorted(picture.size)
        # truncated, like torchvision's `Resize`
        longer = int(self.resize * long / short)
        return (self.resize, longer) if picture.width <= picture.height else (longer, self.resize)

    def normalized(self, images: Tensor) -> Tensor:
        """Return the model's input for displayed images (…, channel, height, width).

        A gray channel is repeated if `mean` has more values.
        """
        if self.mean is None:
            return images
        mean, std = self._constants(images)
        if images.shape[-3] < len(self.mean):
            # explicit, because relevance rules at the input would not see broadcasting
            images = images.expand(*images.shape[:-3], len(self.mean), *images.shape[-2:])
        return (images - mean) / std

    def displayed(self, inputs: Tensor) -> Tensor:
        """Return the displayed images of normalized ones (…, channel, height, width).

        Raises `ShapeError` for another number of channels: gray images would become colored.
        """
        if self.mean is None:
            return inputs
        mean, std = self._constants(inputs)
        if inputs.shape[-3] < len(self.mean):
            raise ShapeError(
                f"mean and std have {len(self.mean)} values for normalized images of shape {tuple(inputs.shape)}; give "
                "one value per channel, or repeat the channel as the model expects it."
            )
        return inputs * std + mean

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as (channel, 1, 1). Raises `ShapeError` for images with another number of channels."""
        assert self.mean is not None
        count = images.shape[-3] if images.ndim >= 3 else 0
        if 1 not in (len(self.mean), count) and len(self.mean) != count:
            raise ShapeError(
                f"mean and std have {len(self.mean)} values for images of shape {tuple(images.shape)}; give one value "
                "per channel, or a single one for all channels."
            )
        like = {"dtype": images.dtype, "device": images.device}
        mean, std = (torch.tensor(values, **like)[:, None, None] for values in (self.mean, self.std))  # type: ignore[arg-type]
        return mean, std


def _margin(length: int, cropped: int) -> int:
    """Return the start of a centered crop, rounded like torchvision's: halves to the even number, padding down."""
    return round((length - cropped) / 2) if length >= cropped else -((cropped - length) // 2)
