"""Positions of values in the image, to fold the tokens of a transformer to the plane.

Every value that depends on the image gets the coordinates of its center, from 0 to 1 along each spatial axis. They are
carried along with the values: a convolution starts a new regular grid, functions that move values move their
coordinates too, and a product with a matrix averages them. Tokens can then be folded back to the plane, whatever their
number and order. Class tokens, registers and padding have no position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from pellucid.attribution._subject import Subject
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.recorder import Recorder
from pellucid.engine.table import substitute, tensors_in
from pellucid.engine.wrapping import find_module

__all__ = ["SAME", "Coordinates", "Fold", "Places", "Tokens", "fold_of", "last_tokens", "tokens_of"]

SAME = 1e-4
"""Coordinates closer than this are equal; the finest grids have some hundred positions along an axis."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Arrangement of the tokens of a layer's output as maps."""

    axis: int
    """Channel axis of the output."""
    order: Tensor
    """(position,): for each position of the plane, row by row, its token, counted over all other axes."""
    grid: tuple[int, ...]
    """Number of positions along each spatial axis."""

    def __call__(self, output: Tensor) -> Tensor:
        """Return a layer's output, (batch, …), as maps (batch, channel, …); other tokens are dropped."""
        tokens = output.movedim(self.axis, 1).flatten(2)
        return tokens.index_select(2, self.order.to(output.device)).unflatten(2, self.grid)


class Places(TorchFunctionMode):
    """Carries the coordinates of every value through the forward pass of one image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._rank = image.ndim
        self._places: dict[int, tuple[Tensor, Coordinates]] = {}
        """Coordinates of tensors by id; holding the tensors keeps ids from being reused."""
        self._keep(image, _regular(image))
        self.count = 0
        """Number of function calls so far."""
        self.seen: Callable[[Callable[..., Any], Tensor], None] = lambda *_: None
        """Called with each function and each of its results that depends on the image."""

    def fold(self, value: Tensor) -> Fold | None:
        """Return how to fold a value to the plane; None if its positions do not fill a regular grid."""
        places = self.of(value)
        return None if places is None or value.ndim < 3 or len(value) != 1 else fold_of(places)

    def of(self, value: Tensor) -> "Coordinates | None":
        """Return the coordinates of a value; None if they are unknown."""
        return self._places.get(id(value), (None, None))[1]

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # before the call, which may work in place
        sources = [self._places[id(tensor)] for tensor in tensors_in((args, kwargs)) if id(tensor) in self._places]
        value = func(*args, **kwargs)
        self.count += 1
        if sources and func is Tensor.__setitem__:
            self._assign(*args)
        elif sources:
            outputs = [output for output in tensors_in(value) if output.is_floating_point()]
            self._carry(func, args, kwargs, sources, outputs)
            for output in outputs:
                self.seen(func, output)
        return value

    def _keep(self, value: Tensor, places: "Coordinates | None") -> None:
        if places is not None and places.shape[1:] == value.shape:
            self._places[id(value)] = (value, places)
        else:
            self._places.pop(id(value), None)

    def _carry(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        sources: "Sequence[tuple[Tensor, Coordinates]]",
        outputs: Sequence[Tensor],
    ) -> None:
        """Store the coordinates of the outputs of a call, as far as they are known."""
        traits, (first, places) = OPERATIONS.traits(func), sources[0]
        if traits.family == "move" and not (traits.inserts_constants and first.shape == outputs[0].shape):
            moved = self._moved(func, args, kwargs)
            for output, own in zip_longest(outputs, moved[: len(outputs)]):
                self._keep(output, own)
            return
        for output in outputs:
            if traits.channels == "first" and traits.family in ("kernel", "pool") and output.ndim == self._rank:
                self._keep(output, _regular(output) if len(output) == 1 else _resized(places, output))
                continue
            is_row = first.ndim == output.ndim and first.shape[:-1] == output.shape[:-1]
            if is_row and traits.family == "kernel" and traits.channels != "first":
                # a product with a matrix on the right: each row of the result comes from one row
                self._keep(output, _mean(places, -1, keepdim=True).expand(-1, *output.shape))
                continue
            same = [own for tensor, own in sources if own.shape[1:] == output.shape]
            if same:
                # x + f(x): what mixes all tokens, such as the token mixer of an MLP, has lost its positions
                self._keep(output, max(same, key=_variety) if len(same) > 1 else same[0])
            elif traits.family == "reduction":
                self._keep(output, _reduced(places, args, kwargs))
            else:
                self._keep(output, None)

    def _assign(self, target: Tensor, index: Any, value: Any) -> None:
        """Carry the coordinates of `target[index] = value`."""
        with torch.no_grad():
            own, new = self._known(target), self._known(value)
            assert own is not None
            changed = own.clone()
            for number, axis in enumerate(changed):
                axis[index] = 0 if new is None else new[number]
            self._keep(target, changed)

    def _known(self, value: Any) -> "Coordinates | None":
        """Return the coordinates of a value, all 0 if it has no place; None for a number."""
        if not isinstance(value, Tensor):
            return None
        shape = (self._rank - 2, *value.shape)
        _, places = self._places.get(id(value), (None, None))
        return torch.zeros(shape, dtype=torch.float32, device=value.device) if places is None else places

    def _moved(self, func: Callable[..., Any], args: Any, kwargs: Any) -> "list[Coordinates | None]":
        """Move the coordinates like the values; constants among the arguments have none."""

        def along(axis: int) -> list[Tensor]:
            def own(tensor: Tensor) -> Tensor:
                entry = self._places.get(id(tensor))
                if entry is not None:
                    return entry[1][axis]
                return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor

            return list(tensors_in(func(*substitute(args, own), **substitute(kwargs, own))))

        try:
            with torch.no_grad():
                axes = [along(axis) for axis in range(self._rank - 2)]
        except (RuntimeError, TypeError):  # such as a reinterpretation as another dtype
            return []
        return [torch.stack(pieces) for pieces in zip(*axes, strict=True)]


Coordinates = Tensor
"""(spatial axis, *shape of the value): the center of each value, above 0 and below 1; 0 for values without a place."""


def _regular(maps: Tensor) -> Coordinates:
    """Return the coordinates of maps (1, channel, …) that cover the image."""
    sizes = maps.shape[2:]
    ends = [(torch.arange(size, dtype=torch.float32, device="cpu") + 0.5) / size for size in sizes]
    grids = torch.meshgrid(*ends, indexing="ij")
    return torch.stack([grid.to(maps.device).expand(maps.shape) for grid in grids])


def _resized(places: Coordinates, output: Tensor) -> Coordinates | None:
    """Average coordinates of pieces of the image, (piece, channel, …), for the output of a convolution of each."""
    if places.ndim != output.ndim + 1 or places.shape[1] != len(output):
        return None
    pools: list[Any] = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d]
    pool = pools[output.ndim - 3]
    return torch.stack([pool(own.mean(1, keepdim=True), output.shape[2:]).expand(output.shape) for own in places])


def _mean(places: Coordinates, axis: int | tuple[int, ...], *, keepdim: bool) -> Coordinates:
    """Average coordinates over axes, without values that have no place."""
    count = (places > 0).sum(axis, keepdim=keepdim)
    return places.sum(axis, keepdim=keepdim) / count.clamp(min=1)


def _reduced(places: Coordinates, args: Sequence[Any], kwargs: dict[str, Any]) -> Coordinates | None:
    """Average coordinates over the axes of a call such as `mean(x, 1)` or `x.amax(dim=1, keepdim=True)`."""
    axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    if not isinstance(axes, int | tuple | list) or not isinstance(keepdim, bool):
        return None
    rank = places.ndim - 1
    shifted = tuple(axis % rank + 1 for axis in ([axes] if isinstance(axes, int) else axes))
    return _mean(places, shifted, keepdim=keepdim)


def _variety(places: Coordinates) -> int:
    """Count the distinct coordinates."""
    return sum(len(own.unique()) for own in places)


def fold_of(places: Coordinates) -> Fold | None:
    """Find the regular grid of one value's coordinates, (spatial axis, 1, …)."""
    spread = places.amax(0)  # any of the coordinates tells values with a place from those without
    varying = [axis for axis in range(1, spread.ndim) if bool((places != places.narrow(axis + 1, 0, 1)).any())]
    constant = [axis for axis in range(1, spread.ndim) if axis not in varying]
    constant = [axis for axis in constant if spread.shape[axis] > 1] or constant
    if not varying or len(constant) != 1:
        return None
    channel = constant[0]
    tokens = places.select(channel + 1, 0).flatten(1)  # (spatial axis, token)
    kept = (tokens > 0).all(0).nonzero()[:, 0]
    ranks, sizes = [], []
    for own in tokens[:, kept]:
        levels = _levels(own)
        sizes.append(len(levels))
        ranks.append((own[:, None] - levels).abs().argmin(1))
    cells = ranks[0]
    for rank, size in zip(ranks[1:], sizes[1:], strict=True):
        cells = cells * size + rank
    count = len(kept)
    is_grid = count > 1 and count == torch.Size(sizes).numel() and len(cells.unique()) == count
    return Fold(channel, kept[cells.argsort()], tuple(sizes)) if is_grid else None


def _levels(coordinates: Tensor) -> Tensor:
    """Return the distinct coordinates in ascending order, up to rounding."""
    ordered = coordinates.sort().values
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered.diff() > SAME
    return ordered[is_new]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A function call whose output holds tokens that can be folded to the plane."""

    name: str
    shape: tuple[int, ...]
    call: int
    fold: Fold


def last_tokens(subject: Subject, image: Tensor) -> Tokens | None:
    """Find the last norm or sum whose output can be folded and whose tokens of the image influence the logits.

    A class token alone reaches the logits of many transformers, so the tokens of the image have no gradient in the last
    layers. Runs one image forward and backward; None if there is no such output.
    """
    leaf = image.detach().clone().requires_grad_()
    places, paths = Places(leaf), Recorder(subject.model, image)  # the recorder only names modules
    found: list[tuple[Tokens, GradientEdge]] = []

    def note(func: Callable[..., Any], output: Tensor) -> None:
        entry = OPERATIONS.find(func)
        is_stream = entry is not None and (entry.traits.family == "norm" or entry.name.strip("_") in _SUMS)
        if is_stream and output.requires_grad and (fold := places.fold(output)) is not None:
            path = paths.path()
            name = f"{getattr(func, '__name__', '')} in {repr(path) if path else 'the model itself'}"
            found.append((Tokens(name, tuple(output.shape), places.count, fold), get_gradient_edge(output)))

    places.seen = note
    with torch.enable_grad():
        logits = subject.logits(leaf, within=places)
        # uneven weights, because the sum of all logits may not depend on the image
        weights = torch.arange(1, logits[0].numel() + 1, dtype=logits.dtype, device=logits.device).cos()
        score = (logits.flatten() * weights).sum()
    slopes = torch.autograd.grad(score, [edge for _, edge in found], allow_unused=True) if found else ()
    for (tokens, _), slope in reversed(list(zip(found, slopes, strict=True))):
        has_slope: bool = slope is not None
        if has_slope and float(tokens.fold(slope).abs().amax(1).gt(0).double().mean()) > 0.5:
            return tokens
    # no output has a gradient, so the method reports that for the last one
    return found[-1][0] if found else None


_SUMS = {"add", "radd", "iadd", "addcmul"}


def tokens_of(subject: Subject, image: Tensor, layer: str) -> Fold | None:
    """Return how to fold the output of a module; None if it is no tensor of tokens on a regular grid."""
    places, outputs = Places(image), list[object]()
    handle = find_module(subject.model, layer).register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        subject.logits(image, within=places)
    finally:
        handle.remove()
    return places.fold(outputs[0]) if outputs and isinstance(outputs[0], Tensor) else None
