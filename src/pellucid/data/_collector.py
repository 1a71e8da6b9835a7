"""Collect images one by one into one tensor: uint8 where that is exact, otherwise floats."""

import torch

from pellucid.core.contracts import ImageSet, to_floats
from pellucid.core.errors import DataError

__all__ = ["ROUNDING", "Collector", "packed"]

IMAGES_AT_ONCE = 256
"""Images packed at a time; float images that came from bytes are converted before they use much memory."""
ROUNDING = 0.01 / 255
"""A hundredth of a gray level: rounding errors of normalization and its inverse in float32 stay far below it."""


class Collector:
    """Stack images one by one: uint8 where that is exact, otherwise floats."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self._waiting: list[torch.Tensor] = []
        self._packed: list[torch.Tensor] = []
        self._shape: torch.Size | None = None
        self._first = ""

    def add(self, pixels: torch.Tensor, label: int, place: str) -> None:
        """Add one image, (channel, height, width); raises `DataError` if it differs in size from earlier ones.

        Gray and color images can be mixed.
        """
        shape = self._shape or pixels.shape
        self._first = self._first or place
        is_gray_and_color = {len(pixels), shape[0]} == {1, 3}
        if pixels.shape[1:] != shape[1:] or (len(pixels) != shape[0] and not is_gray_and_color):
            raise DataError(
                f"{self._first} has {_size(shape, ' pixels')}, {place} has {_size(pixels.shape)}; use images of one "
                "size, or give --image-size (in Python, preprocess=) to scale pictures."
            )
        self._shape = max(shape, pixels.shape)
        self.labels.append(label)
        self._waiting.append(pixels)
        if len(self._waiting) == IMAGES_AT_ONCE:
            self._pack()

    def images(self, name: str) -> ImageSet:
        """Return all images; gray ones are repeated over three channels if others have color."""
        self._pack()
        if not self._packed:
            raise DataError(f"{name} yielded no images.")
        parts, self._packed = self._packed, []
        assert self._shape is not None
        is_bytes = all(part.dtype == torch.uint8 for part in parts)
        result = torch.empty(len(self.labels), *self._shape, dtype=torch.uint8 if is_bytes else torch.float32)
        start = 0
        while parts:
            part = parts.pop(0)  # freed one by one, since they may take all memory that is allowed
            result[start : start + len(part)] = part if is_bytes else to_floats(part)
            start += len(part)
        return ImageSet(result, torch.tensor(self.labels))

    def _pack(self) -> None:
        if self._waiting:
            assert self._shape is not None
            self._packed.append(packed([pixels.expand(self._shape) for pixels in self._waiting]))
        self._waiting = []


def packed(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack images: as uint8 if that is exact up to rounding errors, otherwise as floats."""
    if all(image.dtype == torch.uint8 for image in images):
        return torch.stack(images)
    floats = torch.cat([to_floats(image.unsqueeze(0)) for image in images])
    rounded = floats.mul(255).round_().clamp_(0, 255)
    is_exact = (rounded / 255 - floats).abs_().max() <= ROUNDING
    return rounded.to(torch.uint8) if is_exact else floats


def _size(shape: torch.Size, unit: str = "") -> str:
    channels, height, width = shape
    return f"{width}×{height}{unit}" if channels in (1, 3) else f"{width}×{height}{unit} in {channels} channels"
