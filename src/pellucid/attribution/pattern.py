"""PatternNet and PatternAttribution: the signal in the image that the network detects (Kindermans et al., 2018).

The forward pass is unchanged. In the backward pass, patterns learned from data replace the weights of each kernel layer
(`pellucid.engine.patterns`): the direction of the signal, without the distractor that the weights filter out.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import (
    METHODS,
    Attribution,
    FittedState,
    Outcome,
    Question,
    Subject,
    images_in,
    sharing,
    weighted,
)
from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.core.terminal import track
from pellucid.engine.axes import BatchMixed
from pellucid.engine.model import device_of, dtype_of
from pellucid.engine.patterns import Estimator, PatternSums, kernels_of, names_of, sums_of
from pellucid.engine.tape import Account, Affine, Node, Relevances, Tape

VARIANTS = ("pattern.net", "pattern.attribution")
"""Names registered here; the registry reads them without importing this file."""

PASSING = ("activation", "add", "average", "max", "move")
"""Kinds of operations that use the derivative."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """Fitted patterns: one per kernel operation, in order of execution."""

    tensors: Mapping[str, Tensor]
    """In the shape of the weights, keyed by execution order and module name (`"000 features.0"`)."""
    fingerprint: str
    """Fingerprint of the weights that the patterns belong to."""
    estimator: Estimator


@METHODS.register("pattern.net")
@dataclass(frozen=True)
class PatternNet(Attribution):
    """The signal in the image, layer by layer: s_i = Σ_j a_ij s_j, with the pattern a in place of the weight w.

    Starts with the explained logit. Rectifiers, pooling and sums use the derivative. A batch norm is merged into the
    layer before it; otherwise, like any multiplication by a constant w, it has the pattern 1/w. A module used twice has
    two patterns, one per use. Every unit estimates the signal independently and the estimates are summed, so the map
    shows where the signal is, its scale has no meaning, and no sum is promised.

    Call `fit` first, ideally with the training images. Networks with other operations (layer norm, products, attention,
    softmax) raise `UnsupportedOperation`.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "which part of the image is the signal behind the explained logit"
    needs_fit: ClassVar[bool] = True

    estimator: Estimator = "two_component"
    """`linear` estimates the signal from the covariance of input and output; `two_component` estimates
    it from positive outputs only, for units before a rectifier, and is the same elsewhere."""
    patterns: Patterns | None = field(default=None, repr=False)
    """Patterns learned by `fit`."""

    @property
    def is_ready(self) -> bool:
        return self.patterns is not None

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> Attribution:
        """Learn patterns in one pass over the images; memory does not grow with their number."""
        learner = _Learner(self.estimator)
        total = len(loader) if isinstance(loader, Sized) else None
        with track("learning patterns", total) as bar:
            for number, images in enumerate(images_in(loader), start=1):
                for part in images.to(device_of(subject.model), dtype_of(subject.model)).split(self.images_at_once):
                    learner.update(subject, part)
                bar.update(number, f"{learner.seen:,} images")
        if not learner.seen:
            raise ConfigError("the loader passed to fit is empty; learning patterns needs at least one batch.")
        return replace(self, patterns=Patterns(learner.patterns(), subject.fingerprint(), self.estimator))

    def state(self) -> FittedState:
        assert self.patterns is not None
        facts = {"fingerprint": self.patterns.fingerprint, "estimator": self.patterns.estimator}
        return FittedState("pattern", self.patterns.tensors, facts)

    def restored(self, subject: Subject, state: FittedState) -> Attribution:
        state.check_kind("pattern")
        if state.facts["estimator"] != self.estimator:
            raise ConfigError(
                f"the patterns were learned with estimator={state.facts['estimator']!r}, but the analyzer uses "
                f"{self.estimator!r}; create it with the same estimator, or refit."
            )
        patterns = Patterns(state.tensors, state.facts["fingerprint"], self.estimator)
        _check_weights(patterns, subject)
        return replace(self, patterns=patterns)

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        assert self.patterns is not None
        # After more training the patterns no longer fit the weights, but the maps would still look plausible.
        _check_weights(self.patterns, subject)
        tape = subject.follow(images)
        logits, rule = tape.logits, _PatternRule(self._kernels(tape), self.is_attribution)
        outcomes = []
        for target in question.targets:
            seed = weighted(logits, target.slope(logits))
            copy = replace(tape, nodes=[*tape.nodes])  # `reverse` consumes the nodes
            with torch.no_grad():
                relevance = copy.reverse(seed, lambda _: rule)
            outcomes.append(Outcome(relevance, logits, target.classes(logits)))
        return sharing(outcomes)

    is_attribution: ClassVar[bool] = False
    """True if weight ⊙ pattern replaces the weight, instead of the pattern alone."""

    def _kernels(self, tape: Tape) -> dict[int, Tensor]:
        """Return the replacement for the weight of each kernel operation, by slot."""
        assert self.patterns is not None
        kernels = kernels_of(tape)
        names, tensors = names_of(kernels), self.patterns.tensors
        shapes = [node.weight.shape for node in kernels if node.weight is not None]
        if names != [*tensors] or shapes != [value.shape for value in tensors.values()]:
            raise ConfigError(
                f"the model runs the kernel layers {', '.join(names)}, but the patterns are for {', '.join(tensors)}; "
                "fit on images for which the model runs the same layers."
            )
        stands_in = {}
        for node, pattern in zip(kernels, tensors.values(), strict=True):
            pattern = pattern.to(node.x)
            assert node.weight is not None
            stands_in[node.output] = node.weight * pattern if self.is_attribution else pattern
        return stands_in


@METHODS.register("pattern.attribution")
@dataclass(frozen=True)
class PatternAttribution(PatternNet):
    """Contribution of the signal at each pixel to the logit: r_i = Σ_j w_ij a_ij r_j.

    Like `pattern.net`, with w ⊙ a in place of the weight: the Taylor decomposition at the root x − a·y, which contains
    the distractor but no signal. Multiplications by a constant pass relevance on unchanged.
    """

    answers: ClassVar[str] = (
        "which part of the image is the signal behind the explained logit, and how much it contributes"
    )
    is_attribution: ClassVar[bool] = True


def _check_weights(patterns: Patterns, subject: Subject) -> None:
    if patterns.fingerprint != subject.fingerprint():
        raise ConfigError(
            "the patterns belong to other weights than the model has now "
            f"(fingerprints {patterns.fingerprint[:12]}… and {subject.fingerprint()[:12]}…); refit the method."
        )


class _Learner:
    """Running sums over the images seen so far, from which patterns are computed."""

    def __init__(self, estimator: Estimator) -> None:
        self.seen = 0
        self._estimator = estimator
        self._names: list[str] = []
        self._sums: list[PatternSums] = []
        self._kernels: list[Affine] = []

    def update(self, subject: Subject, images: Tensor) -> None:
        """Add a batch; its images one by one if the model mixes images."""
        subject.first = self.seen
        try:
            tape = subject.follow(images)
        except BatchMixed:
            for number in range(len(images)):
                self.update(subject, images[number : number + 1])
            return
        kernels = kernels_of(tape)
        self._check(tape, kernels)
        with torch.no_grad():
            if not self._sums:
                self._names = names_of(kernels)
                self._sums = sums_of(tape, kernels, self._estimator)
            for sums, node in zip(self._sums, kernels, strict=True):
                sums.add(node)
        self.seen += len(images)
        # Needed at the end for the shape and dtype of each weight.
        self._kernels = kernels

    def _check(self, tape: Tape, kernels: Sequence[Affine]) -> None:
        for node in tape.needed():
            if node.kind not in (*PASSING, "batch_norm", "scale", "convolution", "dense"):
                _refuse(node)
        if self._names and self._names != names_of(kernels):
            raise UnsupportedOperation(
                "the model runs different kernel layers for some images, so patterns cannot be matched to layers by "
                "execution order; choose a method that needs no fit, such as 'lrp.epsilon'."
            )

    def patterns(self) -> dict[str, Tensor]:
        """Compute the pattern of each kernel operation."""
        triples = zip(self._names, self._sums, self._kernels, strict=True)
        return {name: sums.pattern(node) for name, sums, node in triples}


@dataclass(frozen=True, eq=False)
class _PatternRule:
    """Backward rule with patterns in place of weights."""

    stands_in: Mapping[int, Tensor]
    is_attribution: bool

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if node.output in self.stands_in:
            assert isinstance(node, Affine)
            return [node.map.transpose(relevance, self.stands_in[node.output], node.x)]
        if node.kind in ("batch_norm", "scale"):
            assert isinstance(node, Affine)
            assert node.weight is not None
            if self.is_attribution:
                return [relevance]
            return [torch.where(node.weight == 0, 0.0, relevance / node.weight)]  # a zero weight carries no signal
        if node.kind not in PASSING:
            _refuse(node)
        return node.pullback(relevance)


def _refuse(node: Node) -> None:
    raise UnsupportedOperation(
        f"patterns are not defined for {node.place} (kind {node.kind!r}), only for convolutions, dense layers, "
        "batch norms, rectifiers, pooling and sums; choose a method such as 'lrp.epsilon' or 'integrated_gradients'."
    )
