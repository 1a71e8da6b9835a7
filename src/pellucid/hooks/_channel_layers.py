"""The layers whose channels the hook `concepts` explains: the last one with positions, and an earlier one."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.isolation import isolated
from pellucid.engine.hidden import observed
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.wrapping import module_paths

__all__ = ["ChannelLayer", "choose_layers"]

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
CLOSE = 1e-3
"""Largest difference between logits that counts as none, as a fraction of the difference between two images."""
ROUNDING = 1e-5
"""The same as a fraction of the largest logit."""
MOST_TESTS = 4
"""Maximum number of layers of a group that are tested, which bounds the number of forward passes."""


@dataclass(frozen=True)
class ChannelLayer:
    """A layer with channels."""

    name: str
    """Path of the module; `relu@1` is the second call of a module."""
    axis: int
    """Channel axis of the output; axis 0 is the batch."""
    shape: tuple[int, ...]
    """Shape of the output for one image."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[self.axis - 1]

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the output without its channels."""
        return tuple(size for place, size in enumerate(self.shape, 1) if place != self.axis)

    @property
    def sizes(self) -> str:
        """Number of channels and positions in words."""
        where = f" at {'×'.join(map(str, self.positions))} positions" if self.positions else ""
        return f"{self.channels} channels{where}"


@dataclass(frozen=True, eq=False)
class _Output:
    """One output of a forward pass, which several modules may return."""

    layer: ChannelLayer
    modules: list[nn.Module]
    value: Tensor
    kept: Tensor
    """A copy, since later modules may work in place."""

    @property
    def positions(self) -> int:
        return prod(self.layer.positions)


def choose_layers(model: nn.Module, images: Tensor) -> list[ChannelLayer]:
    """Return at most two layers of a model, the last first; none for a model without suitable hidden layers.

    All evidence passes through such a layer: the second of two `images` gets the logits of the first if the layer's
    output is replaced by that for the first. The first choice is the last activation with positions. Without one,
    repeated blocks, such as those of a transformer, come before other modules; without positions, vectors are used. The
    second choice is the last layer with more positions or, if there is none, one in the middle of the network.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten(),
    ...                       nn.Linear(32, 3))
    >>> [(layer.name, layer.sizes) for layer in choose_layers(model, torch.rand(2, 1, 12, 12))]
    [('3', '8 channels at 2×2 positions'), ('1', '4 channels at 5×5 positions')]
    """
    images = images[:2].detach().to(dtype_of(model))
    if len(images) < 2:
        return []
    with isolated(), frozen(model), torch.no_grad():
        outputs, logits = _outputs(model, images)
        hidden = [one for one in outputs if _is_hidden(one.kept, images, logits)]
        search = _Search(model, images, logits)
        for has_positions in (True, False):
            found = search.two([one for one in hidden if (one.positions > 1) == has_positions])
            if found:
                return [one.layer for one in found]
    return []


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for layers through which all evidence passes."""

    model: nn.Module
    images: Tensor
    logits: Tensor

    def two(self, outputs: Sequence[_Output]) -> list[_Output]:
        """Return the last such layer and an earlier one, of outputs in the order of their computation."""
        last = self._first_of([group[::-1] for group in _groups(outputs)])
        if last is None:
            return []
        before = outputs[: outputs.index(last)]
        finer = [group[::-1] for group in _groups([one for one in before if one.positions > last.positions])]
        alike = _groups([one for one in before if one.positions == last.positions])
        middle = [sorted(group, key=lambda one: abs(2 * outputs.index(one) - len(before))) for group in alike]
        earlier = self._first_of(finer) or self._first_of(middle)
        return [last] if earlier is None else [last, earlier]

    def _first_of(self, groups: Sequence[Sequence[_Output]]) -> _Output | None:
        """Return the first output that carries all evidence, of the first few of each group."""
        tested = (one for group in groups for one in group[:MOST_TESTS])
        return next((one for one in tested if self._carries_all(one)), None)

    def _carries_all(self, output: _Output) -> bool:
        if not bool((output.kept[0] != output.kept[1]).any()):
            return False
        value = output.kept[:1]

        def put_in(_name: str, own: Tensor, is_input: bool) -> Tensor:
            # a module that works in place returns its input, which other code may hold
            return own.copy_(value) if is_input else value.clone()

        with observed(self.model, [output.layer.name], put_in, 1):
            changed = self.model(self.images[1:].clone())[0]
        first, second = self.logits
        allowed = CLOSE * (second - first).abs().max() + ROUNDING * first.abs().max()
        return bool((changed - first).abs().max() <= allowed)


def _groups(outputs: Sequence[_Output]) -> list[list[_Output]]:
    """Return the activations; the outputs of the most frequent kind of block; all."""
    activations = [one for one in outputs if any(isinstance(module, ACTIVATIONS) for module in one.modules)]
    blocks = [(one, type(module)) for one in outputs for module in one.modules if list(module.children())]
    kinds = Counter(kind for _, kind in blocks if kind is not nn.Sequential)
    kind, count = next(iter(kinds.most_common(1)), (None, 0))
    repeated = [one for one, own in blocks if own is kind] if count > 1 else []
    return [activations, repeated, list(outputs)]


def _outputs(model: nn.Module, images: Tensor) -> tuple[list[_Output], Tensor]:
    """Return the outputs of all modules in the order in which they are computed, and the logits."""
    found: list[tuple[str, int, list[nn.Module], Tensor, Tensor]] = []
    calls: Counter[str] = Counter()

    def hook_of(path: str) -> Callable[..., None]:
        def leave(module: nn.Module, _: Any, output: Any) -> None:
            calls[path] += 1
            is_usable = isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (2, 3, 4)
            if not is_usable or len(output) != len(images):
                return
            modules = [module]
            if found and found[-1][3] is output:
                # the outer module names the common output
                modules = [*found.pop()[2], module]
            found.append((path, calls[path] - 1, modules, output, output.detach().clone()))

        return leave

    # a module that is registered under several paths keeps the first
    paths = {module: path for path, module in reversed(list(module_paths(model))) if path}
    with ExitStack() as stack:
        for module, path in paths.items():
            stack.callback(module.register_forward_hook(hook_of(path)).remove)
        logits: Tensor = model(images.clone()).detach().clone()
    return [
        _Output(_layer(path if calls[path] == 1 else f"{path}@{call}", kept, images), modules, value, kept)
        for path, call, modules, value, kept in found
    ], logits


def _is_hidden(output: Tensor, images: Tensor, logits: Tensor) -> bool:
    """True for an output that is neither an image nor logits or probabilities."""
    is_image = output.shape == images.shape or (
        output.numel() == images.numel() and torch.equal(output.flatten(1), images.flatten(1))
    )
    return not is_image and not (output.ndim == 2 and output.shape == logits.shape)


def _layer(name: str, output: Tensor, images: Tensor) -> ChannelLayer:
    """Find the channel axis: the last one of tokens, and of feature maps unless they come first."""
    shape = tuple(output.shape[1:])
    axis = len(shape) if len(shape) < 3 or not _is_channel_first(shape, images) else 1
    return ChannelLayer(name, axis, shape)


def _is_channel_first(shape: tuple[int, ...], images: Tensor) -> bool:
    """True unless the first two axes have the aspect ratio of the images and the last two have not."""
    down, across = images.shape[-2:]

    def fits(height: int, width: int) -> bool:
        return abs(height * across - width * down) <= max(down, across)

    return fits(*shape[1:]) or not fits(*shape[:2])
