"""The model that is explained, and the ways to run it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.errors import ModelError, UnsupportedOperation
from pellucid.engine.batch_norm import NORMS, sound_norm, uses_batch_statistics
from pellucid.engine.chunks import keep_freed_memory, largest_tensor_bytes
from pellucid.engine.composites import Composite
from pellucid.engine.derivatives import WAY_OUT, check_graph
from pellucid.engine.fingerprint import fingerprint
from pellucid.engine.folding import fold_batch_norms
from pellucid.engine.guards import check_autocast
from pellucid.engine.lockstep import Multipliers, multipliers
from pellucid.engine.max_pooling import fast_max_pool
from pellucid.engine.outputs import SOFTMAX_AT_THE_END, Chooser, check_logits, choose_output, refuse_softmax
from pellucid.engine.recorder import BatchMixed
from pellucid.engine.relevance import Propagation, propagate_each, record
from pellucid.engine.tape import Tape

__all__ = ["Subject"]

CACHED_BYTES, MOST_PASSES_IN_ONE = 4_000_000, 4
"""Tensors up to this size stay near the processor with all that a pass keeps beside them. Where they do, so many passes
of the usual size are made as one."""


@dataclass(eq=False)
class Subject:
    """A frozen model, as methods see it: images to logits."""

    model: nn.Module
    output: Chooser = None
    unwrap_softmax: bool = False
    _watched: set[tuple[Any, ...]] = field(default_factory=set)
    """The shapes, dtypes and devices for which one image was followed below the function calls."""
    _largest: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """The bytes of the largest tensor that an image of each shape and dtype becomes."""
    _is_compared: bool = False
    is_mixed: bool = False
    """Whether images of a batch depend on one another, so that each is run by itself."""
    _fingerprint: str | None = None
    layers: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """The layers that class activation maps have found in it."""
    _saw_batch_statistics: bool = False
    _is_settled: bool = False
    """Whether it is known in this call that they are not those of the images."""

    def begin(self) -> None:
        """A new call: its first images are to be compared with a plain pass, and the weights may be others."""
        self._is_compared = False
        self._fingerprint = None
        self.is_mixed = False
        self._is_settled = False
        keep_freed_memory()

    def images_per_pass(self, images: Tensor, usual: int) -> int:
        """How many of these images are computed together: `usual`, or more of them where the model is small."""
        if len(images) <= usual:
            return usual
        key = (images.shape[1:], images.dtype)
        if key not in self._largest:
            try:
                self._largest[key] = largest_tensor_bytes(self.model, images)
            except ValueError:  # torch refuses batch statistics of a single row
                self.logits(images[:1].detach())  # which tells why
                raise
        return max(usual, min(MOST_PASSES_IN_ONE * usual, CACHED_BYTES // self._largest[key]))

    def logits(self, images: Tensor, *, within: AbstractContextManager[Any] | None = None) -> Tensor:
        """(batch, …): a plain forward pass, differentiable; a softmax at the end is refused or taken off.

        `within` is entered around the model's own functions, such as to watch them; the caller then calls `settle`.
        """
        with _PlainPass(self.model) as watch, within or nullcontext():
            try:
                returned = self.model(images.clone())  # a copy: the model may begin in place
            except ValueError:  # torch refuses batch statistics of a single row
                self._note_batch_statistics(watch)
                self.settle(images)
                raise
        logits = choose_output(returned, self.output)
        self._note_batch_statistics(watch)
        if within is None:
            self.settle(images)
        if watch.moved is not None and watch.moved[0] is logits:
            refuse_softmax(behind=watch.moved[1])
        if watch.last is not None and watch.last[1] is logits:
            if not self.unwrap_softmax:
                raise UnsupportedOperation(SOFTMAX_AT_THE_END)
            logits = watch.last[0]
        check_logits(logits, images)
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise ModelError(
                "the logits carry no gradient to the images; the model must not detach, use no_grad or leave torch. "
                f"Otherwise, {WAY_OUT}"
            )
        check_graph(logits, WAY_OUT)
        return logits

    def _note_batch_statistics(self, watch: "_PlainPass") -> None:
        self._saw_batch_statistics = self._saw_batch_statistics or watch.saw_batch_statistics

    def settle(self, images: Tensor) -> None:
        """Raise `UnsupportedOperation` if a batch norm uses batch statistics of what depends on the images.

        A pass without gradients cannot tell these from a weight that is normalized that way. Where it met batch
        statistics, the first image is run once more with a gradient, once per call.
        """
        if self._is_settled or not self._saw_batch_statistics:
            return
        self._is_settled = True
        with torch.enable_grad(), _PlainPass(self.model):
            self.model(images[:1].detach().clone().requires_grad_().clone())

    def propagate(
        self,
        images: Tensor,
        composite: Composite,
        seeds_of: Callable[[Tensor], Sequence[Tensor]],
        *,
        is_certified: bool,
    ) -> list[Propagation]:
        """Relevance of each seed by a composite of rules, after the guards have seen the first image."""
        self.guard(images)
        results = propagate_each(
            self.model,
            images,
            composite,
            seeds_of,
            output=self.output,
            unwrap_softmax=self.unwrap_softmax,
            is_certified=is_certified,
        )
        self.compare(images, results[0].logits)
        return results

    def multipliers(
        self, images: Tensor, baseline: Tensor, slopes_of: Callable[[Tensor], Sequence[Tensor]]
    ) -> list[Multipliers]:
        """What a change of each pixel from its baseline does, after the guards have seen the first image."""
        self.guard(images)
        results = multipliers(
            self.model, images, baseline, slopes_of, output=self.output, unwrap_softmax=self.unwrap_softmax
        )
        self.compare(images, results[0].logits)
        return results

    def follow(self, images: Tensor) -> Tape:
        """The tape of one forward pass, batch-norms folded, after the guards have seen the first image."""
        self.guard(images)
        tape = record(self.model, images, output=self.output, unwrap_softmax=self.unwrap_softmax)
        fold_batch_norms(tape)
        self.compare(images, tape.logits)
        return tape

    def fingerprint(self) -> str:
        """Of the model's weights as they are in this call."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def logits_of(self, outputs: Any) -> Tensor:
        """The logits among a model's outputs, less the softmax at the end up to a constant."""
        logits = choose_output(outputs, self.output)
        return logits if not self.unwrap_softmax or float(logits.min()) < 0 else logits.log()

    def guard(self, images: Tensor) -> None:
        """Once per kind of input: follow one image below the functions, where side branches would hide."""
        kind = (images.shape[1:], images.dtype, images.device)
        if kind not in self._watched:
            record(self.model, images[:1], output=self.output, unwrap_softmax=self.unwrap_softmax, is_watched=True)
            self._watched.add(kind)

    def compare(self, images: Tensor, logits: Tensor) -> None:
        """The engine's logits must be those of a plain forward pass of the call's first image."""
        if self._is_compared:
            return
        with torch.no_grad():
            plain = self.logits(images[:1])
        scale = plain.abs().max().clamp(min=1e-12)
        allowed = 1e-9 if logits.dtype == torch.float64 else 1e-3
        if not bool((plain - logits[:1]).abs().max() <= allowed * scale):
            if len(images) > 1:
                raise BatchMixed  # perhaps images of a batch depend on one another: run them one by one
            raise UnsupportedOperation(
                "the model gives other logits when it is followed than when it is run "
                f"(by {float((plain - logits[:1]).abs().max()):.3g}): it draws random numbers, counts its calls, or "
                "leaves torch; make it deterministic in eval mode, or choose a gradient method."
            )
        self._is_compared = True


class _PlainPass(TorchFunctionMode):
    """Remembers input and output of the last softmax, pools faster, and differentiates batch norms correctly."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self.saw_batch_statistics = False
        """Whether a batch norm used batch statistics of a value that requires no gradient."""
        self.last: tuple[Tensor, Tensor] | None = None
        self.moved: tuple[Tensor, str] | None = None
        """What became of its output by moves and bounds alone, and the last of them."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_autocast(func, args, kwargs)
        pooled = fast_max_pool(func, args, kwargs or {})
        if pooled is not None:
            return pooled
        if func in NORMS:
            normalised = sound_norm(func, args, kwargs or {}, self._model)
            if normalised is not None:
                return normalised
            self.saw_batch_statistics |= uses_batch_statistics(func, args, kwargs or {})
        value = func(*args, **(kwargs or {}))
        if func in _SOFTMAXES:
            source = args[0] if args else (kwargs or {}).get("input")
            if isinstance(source, Tensor):
                self.last = (source, value)
        elif args and isinstance(value, Tensor) and (name := getattr(func, "__name__", "")) in _MOVES:
            known = [self.last and self.last[1], self.moved and self.moved[0]]
            if any(args[0] is tensor for tensor in known if tensor is not None):
                self.moved = value, name
        return value


_MOVES = {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim"),
    *("clone", "contiguous", "double", "float", "to", "clamp", "clamp_", "clamp_min", "clamp_max", "clip", "add"),
    *("__getitem__", "select", "narrow", "expand"),
}
"""What leaves probabilities probabilities."""

_SOFTMAXES = {
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    Tensor.softmax,
    Tensor.log_softmax,
    torch.special.softmax,
    torch.special.log_softmax,
}
