"""Concept relevance propagation: the relevance of a layer's channels, and maps of what passes through each of them."""

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.attribution._explanation import Completeness, Explanation, Outcome
from pellucid.attribution._flow import total_of
from pellucid.attribution._method import Backward
from pellucid.attribution._received import copied
from pellucid.attribution._target import Request, Target
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.showing import Shown
from pellucid.engine.conditional import sums_by_channel
from pellucid.engine.units import Channels, channel_axis

if TYPE_CHECKING:
    from pellucid.attribution._analyzer import Analyzer

__all__ = ["ChannelExplanation", "explain_channels"]


@dataclass(frozen=True, eq=False, repr=False)
class ChannelExplanation(Shown):
    """The relevance of a layer's channels, and the maps of some of them at the input (Achtibat et al., 2023)."""

    layer: str
    relevance: Tensor
    """(batch, channel): relevance of every channel of the layer, summed over positions."""
    channels: Tensor
    """(batch, map): the channel of each map."""
    maps: Any
    """(batch, map, …): relevance of the input that passes through the channel; for several inputs, maps in their
    structure."""
    total: Tensor
    """(batch,): relevance that the explanation started with, such as the logit; NaN if unknown."""
    expected: Tensor | None
    """(batch, map): promised sum of each map, the channel's relevance minus what operations below the layer absorb;
    None if the method promises no sum."""
    residual: Tensor | None
    """(batch, map): the sum of each map minus `expected`."""
    allowed: Tensor | None
    """(batch, map): the largest residual that rounding explains."""
    at_layer: Explanation = field(repr=False)
    """The explanation at the layer's output, with its own check of the sum."""
    axis: int = field(default=1, repr=False)
    """Channel axis of the layer's output."""

    def missed(self) -> str:
        """Describe the map that misses its sum the most; empty if every map is within its tolerance."""
        if self.residual is None or self.expected is None or self.allowed is None:
            return ""
        return Completeness(self.expected, self.residual, self.allowed).missed(
            f"{self.method} through channels of {self.layer}", self.at_layer.remedy
        )

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.at_layer.method

    @property
    def target(self) -> Tensor:
        """(batch,): the explained class; −1 for a custom score or a hidden unit."""
        return self.at_layer.target

    @property
    def inputs(self) -> Any:
        """The explained inputs, (batch, …)."""
        return self.at_layer.inputs

    @property
    def shares(self) -> Tensor:
        """(batch, map): relevance of the channel of each map divided by `total`; negative for evidence against it."""
        total = torch.where(self.total == 0, torch.finfo(self.total.dtype).tiny, self.total)
        return self.relevance.gather(1, self.channels) / total[:, None]


def _rules_of(analyzer: "Analyzer") -> Backward:
    """Return the analyzer's method; raise `ConfigError` if it does not propagate relevance by rules."""
    if not isinstance(analyzer.method, Backward):
        raise ConfigError(
            f"the method {analyzer.name!r} does not propagate relevance by rules, so no map passes through single "
            "channels; choose one that does, such as 'lrp.epsilon_plus_flat' or 'lrp.gamma'."
        )
    return analyzer.method


def _channels_of(given: Any, axis: int | None, batch: int) -> Channels:
    """Validate a user's choice of channels: a number, indices, or one row of indices per image."""
    if isinstance(given, Integral) and not isinstance(given, bool):
        if given < 1:
            raise ConfigError(f"channels is {given}; expected at least 1 channel, or a list of indices.")
        return Channels(int(given), axis)
    try:
        which = torch.as_tensor(given, device=given.device if isinstance(given, Tensor) else "cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"channels is {given!r}; expected a number of channels, or a list of indices.") from error
    if which.is_floating_point() or which.is_complex() or which.dtype == torch.bool or not which.numel():
        raise ConfigError(f"channels is {given!r}; expected a number of channels, or a list of indices.")
    if which.ndim not in (1, 2) or (which.ndim == 2 and len(which) != batch):
        raise ShapeError(
            f"channels has shape {tuple(which.shape)} for {batch} images; expected (channel,), or one row of indices "
            "per image."
        )
    return Channels(which.to(torch.int64), axis)


def explain_channels(
    analyzer: "Analyzer", x: Any, layer: Any, target: Request, channels: Any, axis: int | None
) -> ChannelExplanation:
    """Compute what `Analyzer.explain_channels` documents."""
    method = _rules_of(analyzer)
    if Target(target).is_all:
        raise ConfigError("target='all' is not possible here, as each class has its own channels; pass one class.")
    if not isinstance(layer, str) or not layer:
        raise ConfigError(f"layer is {layer!r}; expected the name of one layer, as in model.named_modules().")
    inputs, layers = analyzer._received(x), analyzer._layers(layer)
    chosen = _channels_of(channels, axis, len(inputs) if isinstance(inputs, Tensor) else inputs.several.batch)
    (outcome,), (held,) = analyzer._run(inputs, target, layers, is_certified=True, channels=chosen)
    details = {**outcome.details}
    maps, which, absorbed = (details.pop(name, None) for name in ("maps", "channels", "absorbed"))
    assert maps is not None
    assert which is not None
    at_layer = Explanation.of(replace(outcome, details=details), held, method, analyzer.name, layers[0])
    at_layer = replace(at_layer, inputs=copied(inputs), unit=at_layer.unit.replace("{input}", "activation"))
    own_axis = channel_axis(outcome.relevance, layers[0], axis)
    relevance = sums_by_channel(outcome.relevance, own_axis)
    sums = None if absorbed is None else _sums(method, outcome, maps, relevance.gather(1, which), absorbed)
    return ChannelExplanation(
        layer=layers[0],
        relevance=relevance,
        channels=which,
        maps=maps if isinstance(inputs, Tensor) else inputs.unpacked(maps),
        total=total_of(at_layer),
        expected=None if sums is None else sums.expected,
        residual=None if sums is None else sums.residual,
        allowed=None if sums is None else sums.allowed,
        at_layer=at_layer,
        axis=own_axis,
    )


def _sums(method: Backward, outcome: Outcome, maps: Tensor, relevance: Tensor, absorbed: Tensor) -> Completeness:
    """Compare the sum of each map, (batch, map), with the relevance of its channel minus what is absorbed below it."""
    every = []
    for own, promised, taken in zip(maps.unbind(1), relevance.unbind(1), absorbed.unbind(1), strict=True):
        sums = method.completeness(replace(outcome, relevance=own, promised=promised, absorbed={"below": taken}))
        assert sums is not None
        every.append(sums)
    return Completeness.stack(every)
