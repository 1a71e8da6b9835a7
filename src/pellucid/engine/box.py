"""The box of the z^B rule: the lowest and highest value an input can take, globally, per channel or per pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.finite import bad_value, first_bad_row
from pellucid.core.options import LARGEST_NUMBER

__all__ = ["Bound", "Box", "PerInput", "PixelValues", "plain_bound"]


@dataclass(frozen=True, eq=False, repr=False)
class PixelValues:
    """A bound given as a tensor with several axes; compared, hashed and printed by content."""

    tensor: Tensor
    """The bound in float64 on the CPU."""

    @property
    def _key(self) -> tuple[tuple[int, ...], bytes]:
        return tuple(self.tensor.shape), self.tensor.numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PixelValues) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        shape, content = self._key
        low, high = float(self.tensor.min()), float(self.tensor.max())
        return f"PixelValues({shape}, from {low:.4g} to {high:.4g}, sha256 {sha256(content).hexdigest()[:8]})"


@dataclass(frozen=True)
class PerInput:
    """Bounds of a model with several inputs, one per input; compared and hashed by value."""

    bounds: tuple[Any, ...]
    keys: tuple[str, ...] | None = None
    """Names of the inputs; None if they are given by position."""

    @property
    def structure(self) -> Any:
        """The bounds as users give them, in a tuple or dict."""
        plain = [getattr(bound, "structure", bound) for bound in self.bounds]
        return tuple(plain) if self.keys is None else dict(zip(self.keys, plain, strict=True))


Bound = float | int | Sequence[Any] | Tensor | np.ndarray | PixelValues | PerInput | Mapping[str, Any]
"""One number for all inputs, a sequence of one number per channel, or a tensor that broadcasts to one image; for a
model with several inputs, a tuple or dict with one of these per input."""

_BOUNDS = "a number, one number per channel, or a tensor that broadcasts to one image"


def plain_bound(name: str, bound: Any) -> "PlainBound":
    """Convert a bound to a form that can be compared and hashed.

    Raises `ConfigError` if `bound` is not a valid bound, or not finite.

    >>> plain_bound("low", torch.tensor([-2.0, -1.5, -1.0]))
    (-2.0, -1.5, -1.0)
    """
    if isinstance(bound, PixelValues | PerInput):
        return bound
    if isinstance(bound, Mapping) or (isinstance(bound, tuple | list) and not all(_is_number(one) for one in bound)):
        return _per_input(name, bound)
    try:
        given = bound if isinstance(bound, Tensor) else torch.as_tensor(bound, dtype=torch.float64, device="cpu")
        values = given.detach().to("cpu", torch.float64).contiguous()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} is {bound!r}; expected {_BOUNDS}.") from error
    # bool is a subclass of int, so `as_tensor` accepts it
    if values.numel() == 0 or isinstance(bound, bool):
        raise ConfigError(f"{name} is {bound!r}; expected {_BOUNDS}.")
    # as one row, because no axis of a bound counts images
    if first_bad_row(values.reshape(1, -1)) is not None:
        raise ConfigError(f"{name} holds {bad_value(values)}; the bounds must be finite: {_BOUNDS}.")
    if values.ndim == 0:
        return bound if isinstance(bound, Real) else float(values)  # type: ignore[return-value]  # float or int
    # a copy, because the caller may change the tensor later
    return tuple(values.tolist()) if values.ndim == 1 else PixelValues(values.clone())


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _per_input(name: str, bounds: Any) -> "PlainBound":
    """Convert one bound per input; None for an input without a bound."""
    keys = tuple(map(str, bounds)) if isinstance(bounds, Mapping) else None
    entries = bounds.values() if isinstance(bounds, Mapping) else bounds
    plain = tuple(None if entry is None else plain_bound(name, entry) for entry in entries)
    if not any(entry is not None for entry in plain):
        raise ConfigError(f"{name} is {bounds!r}; expected {_BOUNDS}.")
    return PerInput(plain, keys)


PlainBound = float | int | tuple[float, ...] | PixelValues | PerInput
"""A bound in a form that can be compared and hashed."""


@dataclass(frozen=True)
class Box:
    """The lower and upper bound; `low` is below `high` everywhere."""

    low: PlainBound
    high: PlainBound

    @classmethod
    def of(cls, low: Bound, high: Bound) -> "Box":
        """Build a box from two bounds. Raises `ConfigError` if they are inconsistent."""
        box = cls(plain_bound("low", low), plain_bound("high", high))
        ends = [box.low, box.high]
        # the bounds of pixels and of several inputs are checked once the shape is known
        if not any(isinstance(end, PixelValues | PerInput) for end in ends):
            counts = {len(end) for end in ends if isinstance(end, tuple)}
            if len(counts) > 1:
                raise ConfigError(
                    f"low has {len(box.low)} channels and high {len(box.high)}; "  # type: ignore[arg-type]
                    "give both the same number of channels."
                )
            _check_order(*(torch.as_tensor(end, dtype=torch.float64, device="cpu").reshape(1, -1) for end in ends))
        return box

    def over(self, images: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
        """Return both bounds as tensors that broadcast to `images`, whose channels are along `axis`.

        Raises `ConfigError` if they do not fit the shape of an image.
        """
        low, high = (_over(name, bound, images, axis) for name, bound in (("low", self.low), ("high", self.high)))
        # checked again: pixel bounds have no common shape until now, and close bounds can become equal in float32
        _check_order(*torch.broadcast_tensors(low, high))
        return low, high

    def check(self, images: Tensor, axis: int = 1, noun: str = "images") -> tuple[Tensor, Tensor]:
        """Return `over(images)` after checking that every image lies inside the box.

        Raises `ConfigError`, naming the range received, for images outside the box. The check tolerates float32
        rounding at the border: a millionth of the box's width plus a few units in the last place of the bounds.
        """
        low, high = self.over(images, axis)
        # reduce over the batch first, so that every later step handles a single image
        least, most = torch.aminmax(images, dim=0, keepdim=True)
        last_place = 4 * torch.finfo(images.dtype).eps * torch.maximum(low.abs(), high.abs())
        slack = 1e-6 * (high - low) + last_place
        is_outside = (least < low - slack) | (most > high + slack)
        if bool(is_outside.any()):
            self._refuse([end.expand_as(is_outside) for end in (least, most, low, high)], is_outside, axis, noun)
        return low, high

    def _refuse(self, ends: list[Tensor], is_outside: Tensor, axis: int, noun: str) -> None:
        place = ""
        if not isinstance(self.low, Real) or not isinstance(self.high, Real):
            along = [at for at in range(is_outside.ndim) if at != axis % is_outside.ndim]
            channel = int(is_outside.any(along).nonzero()[0]) if along else 0
            ends = [end.select(axis, channel) for end in ends]
            is_outside, place = is_outside.select(axis, channel), f" in channel {channel}"
        least, most, low, high = ends
        # if the bounds vary within a channel, report those of the first pixel outside
        first = tuple(is_outside.nonzero()[0].tolist())
        raise ConfigError(
            f"these {noun} lie between {float(least.min()):.4g} and {float(most.max()):.4g}{place}, outside the bounds "
            f"{float(low[first]):.4g} to {float(high[first]):.4g} of the z^B rule; pass low= and high= that enclose "
            "every input, as one number or one per channel. If a loader normalizes the images, use "
            "low=(0 - mean) / std and high=(1 - mean) / std."
        )


def _over(name: str, bound: PlainBound, images: Tensor, axis: int) -> Tensor:
    """Return a bound in the dtype of the images, with one axis for each of theirs."""
    if isinstance(bound, PerInput):
        raise ConfigError(f"{name} has one bound per input, but bounds a single one here; give {_BOUNDS}.")
    if isinstance(bound, tuple):
        if len(bound) != images.shape[axis]:
            raise ConfigError(
                f"{name} has {len(bound)} numbers, but the inputs {tuple(images.shape)} have {images.shape[axis]} "
                "channels; give one number for all channels, or one per channel."
            )
        shape = [1] * images.ndim
        shape[axis] = len(bound)
        return torch.tensor(bound, dtype=images.dtype, device=images.device).reshape(shape)
    if isinstance(bound, PixelValues):
        try:
            return bound.tensor.to(images).broadcast_to(1, *images.shape[1:])
        except RuntimeError as error:
            raise ConfigError(
                f"{name} has shape {tuple(bound.tensor.shape)}, which does not broadcast to one input of shape "
                f"{tuple(images.shape[1:])}; give {_BOUNDS}."
            ) from error
    if abs(bound) > LARGEST_NUMBER:
        raise ConfigError(f"{name} is {bound:g}, which is too large; give {_BOUNDS}.")
    return torch.full([1] * images.ndim, bound, dtype=images.dtype, device=images.device)


def _check_order(low: Tensor, high: Tensor) -> None:
    low, high = torch.broadcast_tensors(low, high)
    wrong = (~(low < high)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        where = f" at index {place[1:]}" if low[0].numel() > 1 else ""
        raise ConfigError(
            f"low is {float(low[place]):g} and high {float(high[place]):g}{where}; low must be less "
            "than high everywhere."
        )
