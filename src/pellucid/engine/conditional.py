"""Relevance that passes through single channels of a layer: concept relevance propagation (Achtibat et al., 2023)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.engine.arrivals import Arrival
from pellucid.engine.tape import Account, Node, Rule, Tape
from pellucid.engine.units import Channels, channel_axis

__all__ = ["Conditional", "sums_by_channel", "through_channels"]


@dataclass(frozen=True, eq=False)
class Conditional:
    """Relevance of the images through single channels of a layer."""

    channels: Tensor
    """(batch, channel): indices of the channels."""
    maps: Tensor
    """(batch, channel, …): relevance of the image that passes through each of them."""
    absorbed: Tensor | None
    """(batch, channel): what operations below the layer absorb of it; None without an account."""


def sums_by_channel(relevance: Tensor, axis: int) -> Tensor:
    """Sum the relevance of a layer over its positions: (batch, channel)."""
    return relevance.movedim(axis, 1).reshape(len(relevance), relevance.shape[axis], -1).sum(2)


def through_channels(
    below: Tape,
    arrival: Arrival,
    layer: str,
    channels: Channels,
    rule_of: Callable[[Node], Rule],
    account: Callable[[], Account | None],
) -> Conditional:
    """Propagate the relevance that arrives at a layer to the images, one channel at a time.

    `below` is the part of the tape that computes the layer's output. Rules that distribute relevance are linear in it,
    so the maps of all channels sum to the layer's share of the whole map.
    """
    axis = channel_axis(arrival.relevance, layer, channels.axis)
    arrived = {slot: value.movedim(axis, 1) for slot, value in arrival.by_slot.items()}
    chosen = channels.chosen(sums_by_channel(arrival.relevance, axis))
    for node in below.nodes:
        node.kept = {}
    rows = torch.arange(len(chosen), device=chosen.device)
    maps: list[Tensor] = []
    absorbed: list[Tensor] = []
    for column, tape in zip(chosen.unbind(1), below.copies(chosen.shape[1]), strict=True):
        seeds = {slot: _only(value, rows, column).movedim(1, axis) for slot, value in arrived.items()}
        ledger = account()
        maps.append(tape.reverse(seeds, rule_of, ledger))
        if ledger is not None:
            absorbed.append(sum(ledger.absorbed.values(), ledger.zero))
    return Conditional(chosen, torch.stack(maps, 1), torch.stack(absorbed, 1) if absorbed else None)


def _only(relevance: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    """Keep one channel of each image, (batch, channel, …), and set the others to zero."""
    kept = torch.zeros_like(relevance)
    kept[rows, channels] = relevance[rows, channels]
    return kept
