"""The explained model: plain, recorded and checked forward passes."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution._adapter import Adapter
from pellucid.attribution._finite import check_finite_logits
from pellucid.attribution._target import Question, Target
from pellucid.core.checksum import fingerprint
from pellucid.core.errors import ModelError, PellucidError, ShapeError, UnsupportedOperation
from pellucid.core.finite import first_bad_row
from pellucid.engine.arrays import described
from pellucid.engine.axes import BatchMixed
from pellucid.engine.batch_norm import NORMS, sound_norm, uses_batch_statistics
from pellucid.engine.composites import Composite, takes_unknown
from pellucid.engine.derivatives import WAY_OUT, check_graph, missing_derivative
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.lockstep import Multipliers, differing_selection, multipliers
from pellucid.engine.model import (
    SOFTMAX_AT_THE_END,
    Readout,
    check_autocast,
    check_logits,
    keep_freed_memory,
    largest_tensor_bytes,
    refuse_softmax,
)
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.operations.layers import fast_max_pool
from pellucid.engine.outputs import choose_output
from pellucid.engine.relevance import Propagation, fold_batch_norms, folded, propagate, propagate_along, record
from pellucid.engine.tape import Tape, Unknown
from pellucid.engine.wrapping import check_hidden_norms, check_model, holds_script, is_probabilities

if TYPE_CHECKING:
    from pellucid.attribution._several import Packing

__all__ = ["Subject"]

T = TypeVar("T")

_UNKNOWN = "tape with operations that have no rule"
CACHED_BYTES, MOST_PASSES_IN_ONE = 4_000_000, 4
"""Tensors up to `CACHED_BYTES` stay in the CPU cache along with everything else a forward pass keeps. For models with
only such tensors, up to `MOST_PASSES_IN_ONE` batches of the usual size run as one."""


@dataclass(eq=False)
class Subject:
    """A frozen model as seen by attribution methods: a map from images to logits."""

    model: nn.Module
    readout: Readout = field(default_factory=Readout)
    _watched: set[tuple[Any, ...]] = field(default_factory=set)
    """Input shapes, dtypes and devices that `guard` has already checked."""
    _largest: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """Size in bytes of the largest tensor in a forward pass of one image, by input shape and dtype."""
    what: str = "image"
    """Noun for an input in messages."""
    first: int = 0
    """Index, within the call, of the first image of the current batch."""
    box: tuple[Tensor, Tensor] | None = None
    """Lower and upper bound of the images, for methods that need one; all images of the call lie within."""
    _is_alone_checked: bool = False
    received: str = ""
    """Shape and dtype of the inputs of the current call, for messages."""
    is_mixed: bool = False
    """True if images of a batch affect each other's logits, so each must run alone."""
    _fingerprint: str | None = None
    layers: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """Cache of the layers found for class activation maps."""
    has_hooks: bool = False
    """True if a forward pass has put a hook on a tensor, which changes gradients in ways that their graph hides."""
    agreements: dict[tuple[Any, ...], bool] = field(default_factory=dict)
    """Agreement of the native kernel with autograd, by kind of input; see `class_gradients`."""
    _saw_batch_statistics: bool = False
    _precision: torch.dtype = torch.float64
    """The lowest precision of any value of a plain forward pass in float64."""
    _hides_operations: bool | None = None
    """True if parts of the model are TorchScript; None: unknown yet."""
    _is_settled: bool = False
    """True once this call has ruled out batch statistics that depend on the images."""
    _kept: dict[Any, Any] | None = None
    """Passes over the current images, while several methods explain them."""

    def begin(self, box: tuple[Tensor, Tensor] | None = None) -> None:
        """Reset the per-call state: the weights may have changed, and the first image must be checked again."""
        self._is_alone_checked = False
        self._fingerprint = None
        self.first = 0
        self.box = box
        self.is_mixed = False
        self._is_settled = False
        self._hides_operations = holds_script(self.model)
        keep_freed_memory()

    @contextmanager
    def keeping_passes(self) -> Iterator[None]:
        """Keep passes over the same images for the next method; the caller must not change images or weights."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def once(self, what: Hashable, images: Tensor, compute: Callable[[], T]) -> T:
        """Compute something about the images, or return what an earlier method has computed; see `keeping_passes`."""
        if self._kept is None:
            return compute()
        key = self._key(what, images)
        if key not in self._kept:
            # with the images, so that their memory is not used for others
            self._kept[key] = compute(), images
        kept: T = self._kept[key][0]
        return kept

    def _has(self, what: Hashable, images: Tensor) -> bool:
        return self._kept is not None and self._key(what, images) in self._kept

    @staticmethod
    def _key(what: Hashable, images: Tensor) -> Hashable:
        return (what, images.data_ptr(), images.shape, images.stride(), images.dtype)

    def _plain(self, images: Tensor) -> Tensor:
        """Return the logits of a plain forward pass without gradients."""
        with torch.no_grad():
            return self.once("logits", images, lambda: self.logits(images))

    @property
    def packing(self) -> "Packing | None":
        """The inputs of the current call, for a model with several inputs; None for a single one."""
        packing: Packing | None = getattr(self.model, "packing", None) if isinstance(self.model, Adapter) else None
        return packing

    def images_per_pass(self, images: Tensor, usual: int) -> int:
        """Return the number of images per forward pass: `usual`, or more for small models."""
        if len(images) <= usual:
            return usual
        # Larger batches only pay off while all tensors of a pass stay in the CPU cache.
        key = (images.shape[1:], images.dtype)
        if key not in self._largest:
            try:
                self._largest[key] = largest_tensor_bytes(self.model, images)
            except ValueError:  # torch refuses batch statistics of a single row
                self.logits(images[:1].detach())  # raises an error that names the batch norm
                raise
        return max(usual, min(MOST_PASSES_IN_ONE * usual, CACHED_BYTES // self._largest[key]))

    def logits(self, images: Tensor, *, within: AbstractContextManager[Any] | None = None) -> Tensor:
        """Run a plain, differentiable forward pass and return the logits, (batch, …).

        A final softmax is refused, or removed with `unwrap_softmax`. `within` is entered around the model's forward
        pass, for example to record it; the caller must then call `settle`.
        """
        with _PlainPass(self.model) as watch, within or nullcontext():
            try:
                returned = self.model(images.clone())  # a copy: the first layer may work in place
            except PellucidError:
                raise
            except INPUT_ERRORS as error:
                if isinstance(error, ValueError):  # torch refuses batch statistics of a single row
                    self._note_batch_statistics(watch)
                    self.settle(images)
                if (translated := missing_derivative(error, WAY_OUT)) is not None:
                    raise translated from error
                single = images if self.packing is None else None
                raise_input_error(error, self.model, self.received or described(images), single)
        logits = choose_output(returned, self.readout.output)
        self._note_batch_statistics(watch)
        if within is None:
            self.settle(images)
        # Operations after a softmax hide its input, so this is an error even with `unwrap_softmax`.
        if watch.moved is not None and watch.moved[0] is logits:
            refuse_softmax(behind=watch.moved[1])
        if watch.last is not None and watch.last[1] is logits:
            if not self.readout.unwrap_softmax:
                raise UnsupportedOperation(SOFTMAX_AT_THE_END)
            logits = watch.last[0]
        check_logits(logits, images)
        if self._hides_operations and is_probabilities(logits):
            raise UnsupportedOperation(
                "the model ends in a softmax inside TorchScript, out of reach of unwrap_softmax=True; its outputs "
                "depend on one another and say little about the evidence for a class; pass the model without the "
                "softmax."
            )
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            check_model(self.model, "derivatives")
            raise ModelError(
                "the logits have no gradient with respect to the images; remove detach(), no_grad and non-torch code "
                f"from the model, or {WAY_OUT}"
            )
        if logits.requires_grad:
            check_graph(logits, WAY_OUT)
        return logits

    @contextmanager
    def explained_errors(self, x: Tensor) -> Iterator[None]:
        """Explain an error of torch by the inputs (batch, …) if a plain forward pass of one of them fails as well."""
        self.received = described(x) if self.packing is None else self.packing.several.described()
        try:
            yield
        except UnsupportedOperation:
            self._check_shape(x)  # an operation may be refused only because its input has the wrong shape
            raise
        except PellucidError:
            raise
        except INPUT_ERRORS:
            self._check_shape(x)
            raise  # the model itself accepts the input

    def _check_shape(self, x: Tensor) -> None:
        with torch.no_grad():
            try:
                self.logits(x[:1].detach())
            except ShapeError:
                raise
            except PellucidError:  # about something other than the shape
                return

    def _note_batch_statistics(self, watch: "_PlainPass") -> None:
        self._saw_batch_statistics = self._saw_batch_statistics or watch.saw_batch_statistics
        if watch.saw_cast:
            self._precision = torch.float32
        self.has_hooks = self.has_hooks or watch.saw_hook

    def settle(self, images: Tensor) -> None:
        """Raise `UnsupportedOperation` if a batch norm uses batch statistics of a value that depends on the images.

        A forward pass without gradients cannot distinguish these from a weight normalized with batch statistics. If it
        saw batch statistics, the first image runs once more with a gradient, once per call.
        """
        if self._is_settled:
            return
        if self._hides_operations:
            check_hidden_norms(self.model, images[:1])
        if not self._saw_batch_statistics:
            self._is_settled = bool(self._hides_operations)
            return
        with torch.enable_grad(), _PlainPass(self.model):
            # The second copy is not a leaf: models may work in place, which autograd forbids on leaves.
            self.model(images[:1].detach().clone().requires_grad_().clone())
        self._is_settled = True  # not earlier: whoever asks again after an error must get the same error

    def predict(self, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, list[Target]]:
        """Return the finite logits of the images, and the targets with their predicted classes filled in."""
        logits = self._plain(images)
        self.check_finite(logits, targets)
        return logits, [target.held(logits) for target in targets]

    def check_finite(self, logits: Tensor, targets: Sequence[Target] = ()) -> None:
        """Raise `ModelError` for the first image whose logits or explained score contain NaN or infinities."""
        # A cheap test first: `check_finite_logits` searches for the first bad image, which is slower.
        if first_bad_row(logits) is not None or any(target.score is not None for target in targets):
            check_finite_logits(logits, targets, model=self.model, what=self.what, first=self.first)

    def propagate(
        self,
        images: Tensor,
        composite: Composite,
        seeds_of: Callable[[Tensor], Sequence[Tensor]],
        question: Question,
    ) -> list[Propagation]:
        """Propagate each seed back to the images with a composite of rules, after checking the first image."""
        self.guard(images, with_unknown=takes_unknown(composite))
        if self._kept is None or self.box is not None:
            results = propagate(self.model, images, composite, seeds_of, question, box=self.box)
        else:
            # the pass consumes its copy of the nodes and leaves the kept tape as it is
            tape = self._folded(images, question, takes_unknown(composite))
            results = propagate_along(next(tape.copies(2)), composite, seeds_of, question)
        self.compare(images, results[0].logits)
        return results

    def _folded(self, images: Tensor, question: Question, with_unknown: bool) -> Tape:
        """Record a forward pass, or return that of an earlier method to the same layers."""
        plain, unknown = ("tape", question.layers), (_UNKNOWN, question.layers)
        # a pass that was recorded without them has no operations without a rule
        if with_unknown and not self._has(plain, images):
            tape = self.once(unknown, images, lambda: folded(self.model, images, question, with_unknown=True))
            if any(isinstance(node, Unknown) for node in tape.nodes):
                return tape
            return self.once(plain, images, lambda: tape)
        return self.once(plain, images, lambda: folded(self.model, images, question))

    def multipliers(
        self, images: Tensor, baseline: Tensor, slopes_of: Callable[[Tensor], Sequence[Tensor]], question: Question
    ) -> list[Multipliers]:
        """Compute DeepLIFT multipliers of each pixel's change from the baseline, after checking the first image."""
        self.guard(images)
        results = multipliers(self.model, images, baseline, slopes_of, question)
        self.compare(images, results[0].logits)
        return results

    def differing_selection(self, images: Tensor, baseline: Tensor) -> str:
        """Name the first operation that selects other values for the images than for the baseline; "" if none does."""
        return differing_selection(self.model, images, baseline, self.readout)

    def follow(self, images: Tensor) -> Tape:
        """Record one forward pass with folded batch norms, after checking the first image."""
        tape = self.record(images)
        fold_batch_norms(tape)
        return tape

    def record(self, images: Tensor) -> Tape:
        """Record one forward pass, after checking the first image."""
        self.guard(images)
        tape = record(self.model, images, self.readout)
        self.compare(images, tape.logits)
        return tape

    def fingerprint(self) -> str:
        """Fingerprint of the model's current weights, cached per call."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def logits_of(self, outputs: Any) -> Tensor:
        """Select the logits among a model's outputs; undo a final softmax up to a constant."""
        logits = choose_output(outputs, self.readout.output)
        # Probabilities are never negative: negative outputs are log-probabilities or logits already.
        return logits if not self.readout.unwrap_softmax or float(logits.min()) < 0 else logits.log()

    def guard(self, images: Tensor, *, with_unknown: bool = False) -> None:
        """Run the first image with every operator of torch watched, to catch dependencies that the recorder cannot see.

        `with_unknown` admits operations without a rule. Done once per shape, dtype and device of the input.
        """
        kind = (images.shape[1:], images.dtype, images.device, with_unknown)
        # Watching is slow, and a single image suffices.
        if kind not in self._watched:
            record(self.model, images[:1], self.readout, is_watched=True, with_unknown=with_unknown)
            self._watched.add(kind)

    def compare(self, images: Tensor, logits: Tensor) -> None:
        """Raise `UnsupportedOperation` if recorded logits differ from those of a plain forward pass.

        Costs one forward pass of the batch. Raises `ModelError` for logits with NaN or infinities, and `BatchMixed` if
        images of the batch affect each other's logits.
        """
        plain = self._plain(images)
        self.check_finite(plain)
        self._check_same(images, plain, logits, "when it is recorded")
        # A single image has just run alone.
        self._is_alone_checked |= len(images) == 1
        self.check_alone(images, logits)

    def check_alone(self, images: Tensor, logits: Tensor) -> None:
        """Raise `BatchMixed` if the first image has different logits in a batch than alone; checked once per call."""
        if self._is_alone_checked:
            return
        alone = self._plain(images[:1])
        self._check_same(images[:1], alone, logits[:1], "with gradients", is_mixed=len(images) > 1)
        self._is_alone_checked = True

    def _check_same(
        self, images: Tensor, plain: Tensor, logits: Tensor, when: str, *, is_mixed: bool | None = None
    ) -> None:
        """Compare two passes; if they differ, a second plain pass finds the reason."""
        gaps = _gaps(plain, logits, self._precision)
        if gaps is None:
            return
        if is_mixed:
            raise BatchMixed
        row = int((~(gaps <= 0)).nonzero()[0])  # not `gaps > 0`, which is False for NaN
        size = float((plain[row] - logits[row]).abs().max())
        with torch.no_grad():
            again = self.logits(images)
        where = f"{self.what} {self.first + row}, by {size:.3g}"
        if _gaps(plain, again, self._precision) is not None:
            raise UnsupportedOperation(
                f"the model returns different logits each time it is run in eval mode ({where}): it draws random "
                "numbers or counts its calls; make it deterministic in eval mode."
            )
        if len(images) > 1:
            raise BatchMixed  # the images may affect each other: the caller runs them one by one
        if self._amplifies_rounding(images, plain, size):
            return
        raise UnsupportedOperation(
            f"the model's logits {when} differ from those of a plain forward pass ({where}), although it is "
            "deterministic: it computes outside torch, or branches on the types or gradients of its tensors; make it "
            "compute the same in both cases, or choose another method."
        )

    def _amplifies_rounding(self, images: Tensor, plain: Tensor, size: float) -> bool:
        """True if changing the last bits of the images moves the logits by a difference of `size`, or nearly so."""
        with torch.no_grad():
            nudged = self.logits(images * (1 + 4 * torch.finfo(images.dtype).eps))
        return float((plain - nudged).abs().max()) >= size / 10


def _gaps(plain: Tensor, logits: Tensor, precision: torch.dtype) -> Tensor | None:
    """Difference of each image's logits beyond rounding, (batch,) (above 0, or NaN); None if no image has one.

    Rounding is measured against the image's largest logit and a thousandth of the batch's largest: rounding errors do
    not shrink just because an image's only logit happens to be near zero.
    """
    if torch.equal(plain, logits):  # as nearly always: both passes ran the same kernels
        return None
    # A recorded pass may sum in a different order, hence the generous float32 tolerance.
    share = 1e-9 if logits.dtype == precision == torch.float64 else 1e-3
    # A cheap test that is enough for most: no image is allowed less than this. NaN fails it.
    least = share * float(plain.abs().max()) / (1 if len(plain) == 1 else 1000)
    if float((plain - logits).abs().max()) <= least < math.inf:
        return None
    plain, logits = plain.reshape(len(plain), -1), logits.reshape(len(logits), -1)
    gap, size = (plain - logits).abs(), plain.abs()
    if not bool((gap.sum() + size.sum()).isfinite()):  # inf − inf is NaN, but equal infinities mark masked classes
        gap, size = gap.masked_fill(plain == logits, 0), size.nan_to_num(0.0, 0.0, 0.0)
    size = size.amax(1)
    allowed = share * torch.maximum(size, size.max() / 1000)
    gaps = gap.amax(1) - allowed.clamp(min=1e-15)
    return None if bool((gaps <= 0).all()) else gaps


_CASTS = {Tensor.float, Tensor.type}


class _PlainPass(TorchFunctionMode):
    """A forward pass that tracks the last softmax, pools faster and differentiates batch norms correctly."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self.saw_batch_statistics = False
        """True if a batch norm used batch statistics of a value without a gradient."""
        self.saw_hook = False
        """True if a tensor got a hook, which sees and may change its gradient."""
        self.saw_cast = False
        """True if a value was converted from float64 to float32."""
        self.last: tuple[Tensor, Tensor] | None = None
        """Input and output of the last softmax."""
        self.moved: tuple[Tensor, str] | None = None
        """The softmax output after shape and range operations only, and the name of the last such operation."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_autocast(func, args, kwargs)
        # Equal to what torch computes, but much faster on a CPU.
        pooled = fast_max_pool(func, args, kwargs or {})
        if pooled is not None:
            return pooled
        if func in NORMS:
            normalized = sound_norm(func, args, kwargs or {}, self._model)
            if normalized is not None:
                return normalized
            self.saw_batch_statistics |= uses_batch_statistics(func, args, kwargs or {})
        value = func(*args, **(kwargs or {}))
        self.saw_hook |= func is Tensor.register_hook
        traits = OPERATIONS.traits(func)
        if traits.takes_template or func in _CASTS:
            self.saw_cast |= value.dtype is torch.float32 and args[0].dtype is torch.float64
        if traits.family == "softmax":
            source = args[0] if args else (kwargs or {}).get("input")
            if isinstance(source, Tensor):
                self.last = (source, value)
        elif traits.keeps_softmax and args and isinstance(value, Tensor):
            tracked = [self.last and self.last[1], self.moved and self.moved[0]]
            if any(args[0] is tensor for tensor in tracked if tensor is not None):
                self.moved = value, getattr(func, "__name__", "")
        return value
