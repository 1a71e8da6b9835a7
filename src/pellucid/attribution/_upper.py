"""The part of a network above a layer, run on its own with other outputs of that layer.

One forward pass is recorded: every torch function that depends on the layer's output, with the other values it uses.
The part can then be run again without the layers below. That is exact as long as the network does the same whatever the
layer's output, so it is checked against complete forward passes, and those are used if the two ever differ. Instead of
a layer, the part can also start at several values (`_local`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.attribution._layer_values import replace_values, run_through
from pellucid.attribution._layers import Layer, Probe
from pellucid.attribution._subject import Subject
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.operations.layers import fast_max_pool
from pellucid.engine.table import modified, substitute, tensors_in

__all__ = ["Recording", "Replay", "Upper", "agree", "upper_part"]

Upper = Callable[[Tensor], Tensor]
"""Maps outputs of a layer, for as many images as the part was built with, to logits."""
_SHARE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest difference from a complete pass that rounding explains, relative to the largest logit."""


def upper_part(subject: Subject, images: Tensor, layer: Layer, values: Tensor, trial: Tensor) -> tuple[Upper, Tensor]:
    """Return the network above a layer, complete forward passes if it cannot be run on its own, and the logits.

    `values` is the layer's output for the images, and `trial` another output, by which the part is checked.
    """

    def complete(outputs: Tensor) -> Tensor:
        return replace_values(subject, images, layer, outputs)

    with torch.no_grad():
        recording = Recording()
        logits = run_through(subject, images, layer, recording.probe, within=recording)
        recorded = recording.finish(logits)
        if recorded is None:
            return complete, logits

        def replay(outputs: Tensor) -> Tensor:
            return recorded(outputs.clone())  # a copy, because a step may work in place

        if not agree(replay(values), logits) or not agree(replay(trial), complete(trial)):
            return complete, logits
        # A second time: the first run may have modified a recorded value.
        return (replay if agree(replay(values), logits) else complete), logits


def agree(ours: Tensor, theirs: Tensor) -> bool:
    """True if two results, such as logits, differ by no more than rounding."""
    if ours.shape != theirs.shape:
        return False
    size = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())  # -inf marks masked classes
    share = _SHARE.get(theirs.dtype, 0.0)
    return torch.allclose(ours, theirs, rtol=0.0, atol=share * size, equal_nan=True)


@dataclass(frozen=True)
class _Slot:
    """Place of a value that depends on the layer's output."""

    number: int


@dataclass(frozen=True, eq=False)
class _Step:
    """A recorded call, with slots in place of the values that depend on the layer's output."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    outputs: tuple[int, ...]
    """Slot of each tensor in the result."""
    done: tuple[int, ...] = ()
    """Slots that no later step uses."""


class _Start(Probe):
    """Tells a recording which tensor is the layer's output."""

    def __init__(self, recording: "Recording") -> None:
        self._recording = recording

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        self._recording.enter(output)
        return super().__call__(output, in_place=in_place)


class Recording(TorchFunctionMode):
    """Records the functions that depend on a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = _Start(self)
        # Weak keys: the recording keeps no activations in memory that the network has dropped.
        self._slots: Any = WeakTensorKeyDictionary()
        """Slots of the values."""
        self._constants: dict[int, Tensor] = {}
        """Values from below the layer, and weights, by id."""
        self._steps: list[_Step] = []
        self._count = 0
        self.is_possible = True
        """False once the network has done something that cannot be run again."""

    def enter(self, value: Tensor) -> int:
        """Give a value the next slot."""
        self._slots[value] = self._count
        self._count += 1
        return self._count - 1

    def depends(self, tensor: Tensor) -> bool:
        """True if a value depends on the layer's output."""
        return tensor in self._slots

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors, written = list(tensors_in((args, kwargs))), modified(func, args, kwargs)
        if not any(map(self.depends, tensors)):
            # A value that an earlier step uses would not be the same in the next run.
            self.is_possible &= written is None or id(written) not in self._constants
            return func(*args, **kwargs)
        self.is_possible &= written is None or self.depends(written)
        own_args, own_kwargs = substitute(tuple(args), self._slotted), substitute(dict(kwargs), self._slotted)
        value = func(*args, **kwargs)
        outputs = list(tensors_in(value))
        if outputs or written is not None:
            self._constants.update((id(tensor), tensor) for tensor in tensors if not self.depends(tensor))
            self._steps.append(_Step(func, own_args, own_kwargs, tuple(map(self.enter, outputs))))
        elif not OPERATIONS.traits(func).reads_metadata:
            self.is_possible = False  # a number, on which the control flow may depend
        return value

    def _slotted(self, tensor: Tensor) -> Any:
        return _Slot(self._slots[tensor]) if self.depends(tensor) else tensor

    def finish(self, logits: Tensor, starts: Sequence[int] = (0,)) -> "Replay | None":
        """Return the recorded part; None if it cannot be run again, or does not lead to the logits.

        `starts` are the slots of the values that it starts at.
        """
        last = self._slots.get(logits)
        steps, self._steps = self._steps, []
        self._slots, self._constants = WeakTensorKeyDictionary(), {}  # the steps hold what they need
        if last is None or not self.is_possible:
            return None
        return Replay(_pruned(steps, last), last, starts)


class Replay:
    """The recorded steps, run again from other values."""

    def __init__(self, steps: list[_Step], last: int, starts: Sequence[int]) -> None:
        self._steps, self._last, self._starts = steps, last, starts

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the logits for values in place of those that the recorded part started at; may overwrite them."""
        with torch.no_grad():
            held = dict(zip(self._starts, values, strict=True))
            for step in self._steps:
                args, kwargs = _filled(step.args, held), _filled(step.kwargs, held)
                value = fast_max_pool(step.function, args, kwargs)
                value = step.function(*args, **kwargs) if value is None else value
                held.update(zip(step.outputs, tensors_in(value), strict=True))
                for number in step.done:
                    del held[number]
            return held[self._last]


def _filled(value: Any, held: dict[int, Tensor]) -> Any:
    """Return recorded arguments with values in place of slots."""
    if isinstance(value, _Slot):
        return held[value.number]
    if type(value) in (tuple, list):
        return type(value)(_filled(item, held) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, held) for key, item in value.items()}
    return value


def _numbers(value: Any) -> set[int]:
    """Return the slots in recorded arguments."""
    if isinstance(value, _Slot):
        return {value.number}
    if isinstance(value, dict):
        return _numbers(list(value.values()))
    return set().union(*map(_numbers, value)) if type(value) in (tuple, list) else set()


def _pruned(steps: list[_Step], last: int) -> list[_Step]:
    """Return the steps with the slots that each of them is the last to use."""
    later, pruned = {last}, list[_Step]()
    for step in reversed(steps):
        own = _numbers((step.args, step.kwargs)) | set(step.outputs)
        pruned.append(_Step(step.function, step.args, step.kwargs, step.outputs, tuple(sorted(own - later))))
        later |= own
    return pruned[::-1]
