"""Hidden units: a channel of a layer's output, at one position or over all of them; and sets of channels."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.options import Options

__all__ = ["Channels", "Unit", "channel_axis"]


@dataclass(frozen=True)
class Unit(Options):
    """A hidden unit as the target of an explanation, in place of a class.

    The explained score is the unit's activation: the largest over all positions of its channel, the mean over them,
    or that at one position. Layers that return vectors, (batch, unit), have no positions.

    >>> import torch
    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> x = torch.rand(5, 1, 4, 4)
    >>> explanation = create_analyzer("gradient", model).explain(x, Unit("0", channel=1, at=(0, 1)))
    >>> explanation.relevance.shape, explanation.explained
    (torch.Size([5, 1, 4, 4]), 'unit 1 of 0 at (0, 1)')
    """

    layer: str
    """Path of the module, as in `model.named_modules()`; `relu@1` is the second call of a module."""
    channel: int
    """Index along the channel axis, or the index of the unit in a vector."""
    at: Literal["max", "mean"] | tuple[int, ...] = "max"
    """Position: the largest activation, the mean, or one index per axis other than batch and channel."""
    axis: int | None = None
    """Channel axis of the layer's output. None: axis 1, except for outputs with three axes, which may be
    (batch, channel, length), axis=1, or (batch, token, feature), axis=-1."""

    def __post_init__(self) -> None:
        given: Any = self.at
        if isinstance(given, list):  # indices as they come from `tolist()`
            object.__setattr__(self, "at", tuple(given))
        super().__post_init__()
        if not self.layer:
            raise ConfigError("the layer of a unit is empty; name a module, as in model.named_modules().")

    def __str__(self) -> str:
        """Return the unit in words."""
        where = f"at {self.at}" if isinstance(self.at, tuple) else f"({self.at} over positions)"
        return f"unit {self.channel} of {self.layer} {where}"

    def values(self, output: Tensor) -> Tensor:
        """Return the unit's activations at all positions, (batch, …), from its layer's output.

        Raises `ShapeError` for an output without such a channel.
        """
        axis = channel_axis(output, self.layer, self.axis)
        count = output.shape[axis]
        if not 0 <= self.channel < count:
            raise ShapeError(
                f"there is no channel {self.channel} in {self.layer!r}, whose output is {tuple(output.shape)}; "
                f"give an index from 0 to {count - 1}."
            )
        return output.select(axis, self.channel)

    def score(self, output: Tensor) -> Tensor:
        """Return the unit's activation, (batch,), from its layer's output; differentiable.

        Raises `ShapeError` for an output without such a channel or position.
        """
        values = self.values(output)
        at: Any = self.at
        if isinstance(at, str):
            rows = values.reshape(len(values), -1)
            return rows.amax(1) if at == "max" and rows.shape[1] > 1 else rows.mean(1)
        places = values.shape[1:]
        if len(at) != len(places) or not all(0 <= place < size for place, size in zip(at, places, strict=True)):
            raise ShapeError(
                f"at={at} is no position of {self.layer!r}, whose positions are {tuple(places)}; give one index "
                "per axis, or 'max' or 'mean'."
            )
        return values[(slice(None), *at)]


def channel_axis(output: Tensor, layer: str, axis: int | None) -> int:
    """Return the channel axis of a layer's output, counted from the front; `axis` is the one that the user named.

    Raises `ShapeError` for an output without such an axis, and for one with three axes unless `axis` is given.
    """
    shape = tuple(output.shape)
    if output.ndim < 2:
        raise ShapeError(f"{layer!r} returns {shape}; a channel needs an output (batch, channel, …).")
    if output.ndim == 3 and axis is None:
        raise ShapeError(
            f"{layer!r} returns {shape}, which may be (batch, channel, length) or (batch, token, feature); pass axis=1 "
            "or axis=-1."
        )
    chosen = 1 if axis is None else axis
    if not -output.ndim < chosen < output.ndim or chosen == 0:
        raise ShapeError(f"axis={chosen} is no channel axis of {layer!r}, whose output is {shape}.")
    return chosen % output.ndim


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of one layer through which relevance passes, one at a time."""

    which: int | Tensor
    """Indices, (channel,) or (batch, channel), or a number of channels: the most relevant ones of each image."""
    axis: int | None = None
    """Channel axis of the layer's output, as in `Unit`."""

    def part(self, rows: slice) -> "Channels":
        """Return the channels of some of the images."""
        if isinstance(self.which, int) or self.which.ndim == 1:
            return self
        return Channels(self.which[rows], self.axis)

    def chosen(self, sums: Tensor) -> Tensor:
        """Return the indices (batch, channel) for the relevance of all channels of the layer, (batch, channel).

        A number of channels selects those with the largest relevance, largest first; of equal ones, the first.
        """
        count = sums.shape[1]
        if isinstance(self.which, int):
            return sums.argsort(dim=1, descending=True, stable=True)[:, : self.which]
        indices = self.which.to(sums.device)
        if not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise ConfigError(
                f"channels range from {int(indices.min())} to {int(indices.max())}, but the layer has {count}; give "
                f"indices from 0 to {count - 1}."
            )
        return indices.expand(len(sums), -1)
