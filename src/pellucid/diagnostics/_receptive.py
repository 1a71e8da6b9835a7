"""Receptive fields: the part of the input that a position of a layer's output depends on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.attribution._hidden import ToLayer
from pellucid.core.isolation import isolated
from pellucid.engine.input_errors import INPUT_ERRORS
from pellucid.engine.model import device_of, dtype_of, frozen
from pellucid.engine.units import channel_axis

__all__ = ["ReceptiveFields", "receptive_fields"]

PROBES_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class ReceptiveFields:
    """The receptive field of every position of a layer's output."""

    boxes: Tensor
    """(position, axis, 2) int64, on the CPU: first and last index + 1 along each axis of the image after the channels.
    Positions are counted in row-major order."""
    positions: tuple[int, ...]
    """Shape of the layer's output without batch and channel."""
    note: str = ""
    """Reason why every field counts as the whole image; empty otherwise."""

    @property
    def are_whole(self) -> bool:
        """True if every position depends on the whole image."""
        sizes = self.boxes[:, :, 1] - self.boxes[:, :, 0]
        return bool((sizes == sizes.amax(0)).all()) and not bool(self.boxes[:, :, 0].any())


def receptive_fields(model: nn.Module, image: Tensor, layer: str, *, axis: int | None = None) -> ReceptiveFields:
    """Find the receptive fields of a layer, for images of the shape of `image` (1, channel, …).

    Rows and columns of the image are replaced by NaN, from each side: the positions whose output becomes NaN depend on
    them, whatever the weights and the values are. It takes a few forward passes up to the layer for each of its
    rows and columns. If the model cannot be run with NaN, the whole image counts, and `note` says so. `axis` is the
    channel axis of the output, as in `Unit`.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2))
    >>> fields = receptive_fields(network, torch.zeros(1, 1, 8, 8), "1")
    >>> fields.positions, fields.boxes[4].tolist()  # the middle of 3×3 positions
    ((3, 3), [[2, 6], [2, 6]])
    """
    image = image.detach().to(device_of(model), dtype_of(model))
    upper = ToLayer(model, layer)
    with isolated(), frozen(upper) as part, torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        upper.check(lambda own: own(image.clone()))
        output = part(image.clone())
        own_axis = channel_axis(output, layer, axis)
        positions = tuple(size for place, size in enumerate(output.shape) if place not in (0, own_axis))
        sizes = image.shape[2:]
        whole = torch.tensor([[0, size] for size in sizes], dtype=torch.int64, device="cpu").reshape(len(sizes), 2)
        count = torch.Size(positions).numel()
        boxes = whole.repeat(count, 1, 1)
        probe = _Probe(part, image, own_axis)
        try:
            for place, size in enumerate(sizes):
                first = probe.reach(place + 2, from_end=False)
                last = size - probe.reach(place + 2, from_end=True)
                boxes[:, place] = torch.stack([first, last], 1)
        except (*INPUT_ERRORS, ArithmeticError) as error:  # a model may refuse NaN
            return ReceptiveFields(whole.repeat(count, 1, 1), positions, _note(layer, error))
    # a position that depends on nothing
    boxes = torch.where((boxes[..., :1] >= boxes[..., 1:]).any(1, keepdim=True), whole, boxes)
    return ReceptiveFields(boxes, positions)


def _note(layer: str, error: Exception) -> str:
    return (
        f"The receptive fields of {layer} are unknown, since the model cannot be run with NaN "
        f"({type(error).__name__}); images are shown as a whole"
    )


@dataclass(frozen=True, eq=False)
class _Probe:
    """Runs the part of a model below a layer on images with NaN."""

    part: nn.Module
    image: Tensor
    channels: int
    """Channel axis of the layer's output."""

    def reach(self, axis: int, *, from_end: bool) -> Tensor:
        """Return how many indices along an axis of the image can be NaN before a position becomes NaN: (position,).

        Counted from the first index, or from the last. The more indices are NaN, the more positions are; intervals of
        this number in which nothing changes are not divided further.
        """
        size = self.image.shape[axis]
        known = self._touched(axis, [0, size], from_end=from_end)
        open_ends = [(0, size)]
        while open_ends := [(low, high) for low, high in open_ends
                            if high - low > 1 and not torch.equal(known[low], known[high])]:  # fmt: skip
            middles = [(low + high) // 2 for low, high in open_ends]
            known |= self._touched(axis, middles, from_end=from_end)
            halves = zip(open_ends, middles, strict=True)
            open_ends = [half for (low, high), middle in halves for half in ((low, middle), (middle, high))]
        result = torch.full(known[0].shape, size, dtype=torch.int64, device="cpu")
        for number in sorted(known, reverse=True):
            result[known[number]] = number - 1
        return result

    def _touched(self, axis: int, numbers: list[int], *, from_end: bool) -> dict[int, Tensor]:
        """Return which positions become NaN, (position,), for each number of indices that are NaN."""
        found: dict[int, Tensor] = {}
        for start in range(0, len(numbers), PROBES_AT_ONCE):
            own = numbers[start : start + PROBES_AT_ONCE]
            # the image itself comes first: if it is affected, the model mixes the images of a batch
            probes = self.image.repeat(len(own) + 1, *(1 for _ in self.image.shape[1:]))
            for probe, number in zip(probes[1:], own, strict=True):
                length = probe.shape[axis - 1]
                probe.narrow(axis - 1, length - number if from_end else 0, number).fill_(torch.nan)
            outputs = self.part(probes.clone())
            if bool(outputs[0].isnan().any()):
                outputs = torch.cat([self.part(probe[None].clone()) for probe in probes])
            rows = outputs[1:].isnan().any(self.channels).reshape(len(own), -1).cpu()
            found |= dict(zip(own, rows, strict=True))
        return found
