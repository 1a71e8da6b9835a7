"""The local part of a network, run once for all combinations of neighboring segments instead of once per mask.

In the first layers of a convolutional network, a value depends on a small region of the image, and so on few segments.
If the segments are colored such that those in the same region have different colors, then the images that show or hide
each color as a whole contain every such combination: 16 images for patches on a grid. The local values of any mask are
therefore picked from those of these images, position by position, and only the rest of the network runs per mask. That
is exact, up to rounding. It is also checked against complete passes, which are used wherever it does not apply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.attribution._reach import colors_of, neighbors_in, reach_after, reach_of_segments
from pellucid.attribution._trials import Trials
from pellucid.attribution._upper import Recording, Replay
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.table import modified, storage_key, tensors_in

__all__ = ["CHECKED_MASKS", "LocalPart", "hidden", "local_part"]

CHECKED_MASKS = 2
"""Number of masks at the start, and at the end, whose logits are compared with those of complete passes."""
FEWEST_PER_COMBINATION = 4
"""Minimum number of masks per combination of colors."""
LEAST_GAIN = 0.1
"""Minimum share of the arithmetic that must be saved."""
PRODUCTS_PER_VALUE = 50
"""Number of multiplications that take as long as picking one value, on a CPU."""
MOST_REACHES = 20_000_000
"""Largest number of pairs of a segment and a position whose reach is computed."""
MOST_BYTES = 256_000_000
"""Largest size of the local values of all combinations."""


def hidden(trials: Trials, is_shown: Tensor, index: Tensor) -> Tensor:
    """Return copies of the images, (mask, batch, …), that show the segments in `is_shown`, (mask, segment)."""
    device = trials.images.device
    return torch.where(is_shown.to(device)[:, index.to(device)][:, None], trials.images, trials.baseline)


@dataclass(frozen=True, eq=False)
class _Table:
    """A local value that the rest of the network uses, for all combinations of colors."""

    values: Tensor
    """(combination, batch, channel, …)."""
    digits: Tensor
    """Contribution of each segment, if shown, to the number of the combination, (segment, position)."""
    memory_format: torch.memory_format

    def pick(self, is_shown: Tensor) -> Tensor:
        """Return the values for masks, (mask, segment) as floats: (mask · batch, channel, …)."""
        numbers = (is_shown @ self.digits).long()  # sums of powers of two, exact in float32
        flat = self.values.flatten(3)
        places = numbers[:, None, None].expand(-1, *flat.shape[1:3], -1)
        picked = flat.gather(0, places).view(-1, *self.values.shape[2:])
        return picked.contiguous(memory_format=self.memory_format)


@dataclass(frozen=True, eq=False)
class LocalPart:
    """The local values of all combinations of colors, and the rest of the network, which runs per mask."""

    copies: int
    """Number of masks per pass."""
    tables: Sequence[_Table]
    upper: Replay

    def logits(self, is_shown: Tensor) -> Tensor:
        """Return the logits, (mask, batch, …), of at most `copies` masks, (mask, segment)."""
        rows = _padded(is_shown, self.copies).to(self.tables[0].digits)
        logits = self.upper(*(table.pick(rows) for table in self.tables))
        return logits.unflatten(0, (self.copies, -1))[: len(is_shown)]


def local_part(trials: Trials, index: Tensor, masks: int) -> LocalPart | None:
    """Return the local part of a network, for a number of masks to run, or None if it would save too little.

    `index` is the segment of each value, (channel, …). The decision depends on the number of multiplications, not on
    time, so that equal calls have equal results. The caller compares some logits with those of complete passes.
    """
    # Without a kernel, nothing in the local part would be worth saving.
    has_kernels = any(weight.ndim > 2 for weight in trials.subject.model.parameters())
    size = (int(index.max()) + 1) * index[0].numel()
    if index.ndim < 2 or not has_kernels or size > MOST_REACHES:
        return None
    digest = sha256(index.to("cpu").contiguous().numpy().tobytes()).digest()
    key = ("local", masks, trials.images.shape, trials.images.dtype, digest)
    if key in trials.subject.layers:  # an earlier call has found that it saves too little
        return None
    reach = reach_of_segments(index)
    most, best, gain = max(1, masks // FEWEST_PER_COMBINATION).bit_length() - 1, None, LEAST_GAIN
    # A deeper local part needs more colors, so each number of colors has a deepest part.
    while most > 0:
        survey = _LocalRecording(trials.images[:1], reach, most)
        survey.run(trials)
        if (own := survey.gain(masks, len(trials.images))) > gain:
            best, gain = survey, own
        # With fewer colors, the local part cannot be larger.
        most = min(most, survey.depth) - 1 if survey.share > gain else 0
    part = None if best is None else _combined(trials, index, reach, best)
    if part is None:
        trials.subject.layers[key] = None
    return part


def _combined(trials: Trials, index: Tensor, reach: Tensor, survey: "_LocalRecording") -> LocalPart | None:
    """Run all combinations of colors; None if the network does not do the same as in the survey."""
    colors, copies, parts = torch.tensor(survey.colors, device="cpu"), trials.at_once, list[list[Tensor]]()
    combinations = (torch.arange(2**survey.depth, device="cpu")[:, None] >> colors) & 1 == 1
    upper: Replay | None = None
    for rows in combinations.split(copies):
        images = hidden(trials, _padded(rows, copies), index).flatten(0, 1)
        recording = _LocalRecording(images, reach, survey.depth)
        upper = recording.run(trials)
        if upper is None or not recording.is_like(survey):
            return None
        parts.append([source.value.unflatten(0, (copies, -1))[: len(rows)] for source in recording.sources])
    assert upper is not None
    powers = (2**colors).to(torch.float32)[:, None]
    tables = [
        _Table(torch.cat(values), (source.reach.flatten(1) * powers).to(values[0].device), _format_of(source.value))
        for source, values in zip(survey.sources, zip(*parts, strict=True), strict=True)
    ]
    return LocalPart(copies, tables, upper)


def _padded(masks: Tensor, count: int) -> Tensor:
    """Repeat the first mask until there are `count` masks."""
    return torch.cat([masks, masks[:1].expand(count - len(masks), -1)]) if len(masks) < count else masks


def _format_of(value: Tensor) -> torch.memory_format:
    # The network may rely on the layout, for example by calling `view`.
    is_plain = value.is_contiguous() or value.ndim != 4
    return torch.contiguous_format if is_plain else torch.channels_last


@dataclass(frozen=True, eq=False)
class _Source:
    """A local value that the rest of the network uses."""

    slot: int
    value: Tensor
    owner: Tensor
    """The network's own tensor, which it may overwrite."""
    reach: Tensor


class _LocalRecording(Recording):
    """Follows the reach of the local values, and records the rest of the network."""

    def __init__(self, images: Tensor, reach: Tensor, most: int) -> None:
        super().__init__()
        self.sources: list[_Source] = []
        self._images, self._most = images, most
        self._neighbors = neighbors_in(reach)  # segments that differ by channel are neighbors from the start
        self.colors = colors_of(self._neighbors)
        """Color of each segment."""
        self.is_possible = self.depth <= most
        self._reaches: Any = WeakTensorKeyDictionary()
        self._reaches[images] = reach
        self._products = {True: 0.0, False: 0.0}
        """Multiplications in the local part, and in the rest."""

    def run(self, trials: Trials) -> Replay | None:
        """Run the network on the images, and return what follows the local part; None if it cannot be run again."""
        with torch.no_grad():
            logits = trials.subject.logits(self._images, within=self)
        trials.subject.settle(self._images)
        return self.finish(logits, [source.slot for source in self.sources])

    @property
    def depth(self) -> int:
        """Number of colors."""
        return max(self.colors) + 1

    def is_like(self, survey: "_LocalRecording") -> bool:
        """True if the local part is the same for other images."""
        pairs = zip(self.sources, survey.sources, strict=False)
        return (
            self.colors == survey.colors
            and len(self.sources) == len(survey.sources)
            and all(torch.equal(own.reach, other.reach) for own, other in pairs)
        )

    @property
    def share(self) -> float:
        """Share of the multiplications in the local part, less the time for picking values."""
        values = sum(source.value.numel() for source in self.sources)
        return (self._products[True] - PRODUCTS_PER_VALUE * values) / max(sum(self._products.values()), 1.0)

    def gain(self, masks: int, images: int) -> float:
        """Share of the multiplications that the local part saves, after one run on one image."""
        size = sum(source.value.numel() * source.value.element_size() for source in self.sources)
        if not self.is_possible or not self.sources or size * images * 2**self.depth > MOST_BYTES:
            return 0.0
        return self.share - (2**self.depth + 2 * CHECKED_MASKS) / masks

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        local = [tensor for tensor in tensors if tensor in self._reaches and not self.depends(tensor)]
        if local and OPERATIONS.traits(func).reads_metadata:
            return func(*args, **kwargs)
        is_local = bool(local) and not any(map(self.depends, tensors))
        reach = self._reach_after(func, args, kwargs) if is_local else None
        if reach is not None:
            value = func(*args, **kwargs)
            self._keep(value, reach)
        else:
            for tensor in local:
                self._start_at(tensor)
            value = super().__torch_function__(func, types, args, kwargs)
        self._add_products(func, tensors, value, reach is not None)
        return value

    def _reach_after(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor | None:
        """Return the reach of a result and update the colors, or None if it is not local or needs too many colors."""
        with torch._C.DisableTorchFunction():  # the surrounding mode is only interested in the network
            written = modified(func, args, kwargs)
            if written is not None and (written not in self._reaches or self._is_used(written)):
                return None
            reach: Tensor | None = reach_after(func, args, kwargs, self._reaches.get)
            if reach is None or int(reach.sum(0).max()) > self._most:
                return None  # too many segments reach one place
            neighbors = self._neighbors | neighbors_in(reach)
            if not torch.equal(neighbors, self._neighbors):
                colors = colors_of(neighbors)
                if max(colors) >= self._most:
                    return None
                self._neighbors, self.colors = neighbors, colors
            return reach

    def _is_used(self, tensor: Tensor) -> bool:
        """True if the rest of the network uses this memory."""
        return storage_key(tensor) in {storage_key(source.owner) for source in self.sources}

    def _keep(self, value: object, reach: Tensor) -> None:
        if isinstance(value, Tensor) and value.shape[2:] == reach.shape[1:] and len(value) == len(self._images):
            self._reaches[value] = reach
        else:
            self.is_possible = False

    def _start_at(self, tensor: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            # a copy, because the network may overwrite it
            source = _Source(self.enter(tensor), tensor.clone(), tensor, self._reaches[tensor])
            self.is_possible &= source.value.is_contiguous(memory_format=_format_of(source.value))
            self.sources.append(source)

    def _add_products(self, func: Callable[..., Any], tensors: Sequence[Tensor], value: object, is_local: bool) -> None:
        """Add the multiplications of a call: each weight is used once at each place."""
        if isinstance(value, Tensor) and value.ndim > 1 and (is_local or self.depends(value)):
            own = [tensor for tensor in tensors if tensor not in self._reaches and not self.depends(tensor)]
            channels = value.shape[1 if is_local or OPERATIONS.traits(func).channels == "first" else -1]
            self._products[is_local] += sum(tensor.numel() for tensor in own) * value.numel() / max(channels, 1)
