"""PatternNet and PatternAttribution: what in the image the network's answer is about (Kindermans et al., 2018).

The forward pass is the model's own; on the way back, each kernel layer's weights are replaced by patterns learned from
data (`pellucid.engine.patterns`): the direction of the signal, without the distractor that the weights filter out.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome, sharing
from pellucid.attribution._method import Attribution, FittedState, images_in
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target, weighted
from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.core.terminal import track
from pellucid.engine.account import Account
from pellucid.engine.freezing import device_of, dtype_of
from pellucid.engine.patterns import Estimator, PatternSums, kernels_of, names_of, needed_nodes, sums_of
from pellucid.engine.recorder import BatchMixed
from pellucid.engine.tape import Affine, Node, Relevances, Tape

VARIANTS = ("pattern.net", "pattern.attribution")
"""The names registered here; the registry reads them without importing this file."""

PASSING = ("activation", "add", "average", "max", "move")
"""The kinds of operations where the derivative is used."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """What `fit` learned: one pattern per kernel operation, in order of use."""

    tensors: Mapping[str, Tensor]
    """Like the weights, by place in the order of use and name of the module (`"000 features.0"`)."""
    fingerprint: str
    """Of the weights that the patterns belong to."""
    estimator: Estimator


@METHODS.register("pattern.net")
@dataclass(frozen=True)
class PatternNet(Attribution):
    """The signal in the image, layer by layer: s_i = Σ_j a_ij s_j, with the pattern a in place of the weight w.

    Starts with the explained logit. Rectifiers, pooling and sums use the derivative; a batch-norm belongs to the layer
    before it, and elsewhere, as any multiplication with a constant w, has the pattern 1/w. A module that is used twice
    has two patterns, one per use. Each of many units estimates the signal by itself, and all are summed: the map's
    shape says where the signal is, its size says nothing, and no sum is promised.

    `fit` must see images first, best those of the training. Networks with other operations (layer norm, products,
    attention, softmax) are refused.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "what in the image is the signal that the explained logit is about"
    needs_fit: ClassVar[bool] = True

    estimator: Estimator = "two_component"
    """`two_component`: the signal of units before a rectifier is estimated where they are positive, that of others as
    with `linear`, by the covariance of input and output."""
    patterns: Patterns | None = field(default=None, repr=False)
    """What `fit` learned."""

    @property
    def is_ready(self) -> bool:
        return self.patterns is not None

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> Attribution:
        """The method with patterns from one pass over the images; memory does not grow with their number."""
        learner = _Learner(self.estimator)
        total = len(loader) if isinstance(loader, Sized) else None
        with track("learning patterns", total) as bar:
            for number, images in enumerate(images_in(loader), start=1):
                for part in images.to(device_of(subject.model), dtype_of(subject.model)).split(self.images_at_once):
                    learner.see(subject, part)
                bar.update(number, f"{learner.seen:,} images")
        if not learner.seen:
            raise ConfigError("the loader that patterns are learned on is empty; give at least one batch.")
        return replace(self, patterns=Patterns(learner.patterns(), subject.fingerprint(), self.estimator))

    def state(self) -> FittedState:
        assert self.patterns is not None
        facts = {"fingerprint": self.patterns.fingerprint, "estimator": self.patterns.estimator}
        return FittedState("pattern", self.patterns.tensors, facts)

    def restored(self, subject: Subject, state: FittedState) -> Attribution:
        state.check_kind("pattern")
        if state.facts["estimator"] != self.estimator:
            raise ConfigError(
                f"these patterns were learned with estimator={state.facts['estimator']!r}, and the analyzer has "
                f"{self.estimator!r}; create it with the same estimator, or fit anew."
            )
        patterns = Patterns(state.tensors, state.facts["fingerprint"], self.estimator)
        _check_weights(patterns, subject)
        return replace(self, patterns=patterns)

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return self.attribute_each(subject, images, [target], is_certified=is_certified)[0]

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        assert self.patterns is not None
        _check_weights(self.patterns, subject)
        tape = subject.follow(images)
        logits, rule = tape.logits, _PatternRule(self._kernels(tape), self.is_attribution)
        seeds = [weighted(logits, target.slope(logits)) for target in targets]
        outcomes = []
        for seed, target in zip(seeds, targets, strict=True):
            own = replace(tape, nodes=[*tape.nodes])
            with torch.no_grad():
                relevance = own.reverse(seed, lambda _: rule)
            outcomes.append(Outcome(relevance, logits, target.classes(logits)))
        return sharing(outcomes)

    is_attribution: ClassVar[bool] = False
    """Whether weight times pattern takes the weight's place, instead of the pattern alone."""

    def _kernels(self, tape: Tape) -> dict[int, Tensor]:
        """What stands in for the weight of each kernel operation, by its slot."""
        assert self.patterns is not None
        kernels = kernels_of(tape)
        names, tensors = names_of(kernels), self.patterns.tensors
        shapes = [node.weight.shape for node in kernels if node.weight is not None]
        if names != [*tensors] or shapes != [value.shape for value in tensors.values()]:
            raise ConfigError(
                f"the model runs the kernel layers {', '.join(names)}, and the patterns are for {', '.join(tensors)}; "
                "fit on images that take the same way through the model."
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
    """How much the signal at each pixel contributes to the logit: r_i = Σ_j w_ij a_ij r_j.

    As pattern.net, with w ⊙ a in place of the weight: the Taylor decomposition at the root x − a·y, which has the
    distractor but no signal. Multiplications with a constant pass all on.
    """

    answers: ClassVar[str] = "where the signal is that the explained logit is about, and how much it contributes"
    is_attribution: ClassVar[bool] = True


def _check_weights(patterns: Patterns, subject: Subject) -> None:
    if patterns.fingerprint != subject.fingerprint():
        raise ConfigError(
            "the patterns belong to other weights than the model has now "
            f"(fingerprints {patterns.fingerprint[:12]}… and {subject.fingerprint()[:12]}…); fit again."
        )


class _Learner:
    """Sums over the images seen so far."""

    def __init__(self, estimator: Estimator) -> None:
        self.seen = 0
        self._estimator = estimator
        self._names: list[str] = []
        self._sums: list[PatternSums] = []
        self._kernels: list[Affine] = []

    def see(self, subject: Subject, images: Tensor) -> None:
        """Enter a batch; its images one by one where the model mixes them."""
        subject.first = self.seen
        try:
            tape = subject.follow(images)
        except BatchMixed:
            for number in range(len(images)):
                self.see(subject, images[number : number + 1])
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
        self._kernels = kernels

    def _check(self, tape: Tape, kernels: Sequence[Affine]) -> None:
        for node in needed_nodes(tape):
            if node.kind not in (*PASSING, "batch_norm", "scale", "convolution", "dense"):
                _refuse(node)
        if self._names and self._names != names_of(kernels):
            raise UnsupportedOperation(
                "the model takes another way for some images than for others, so that its kernel layers cannot be "
                "told apart by their order; choose a method that needs no fit, such as 'lrp.epsilon'."
            )

    def patterns(self) -> dict[str, Tensor]:
        """The pattern of each kernel operation."""
        triples = zip(self._names, self._sums, self._kernels, strict=True)
        return {name: sums.pattern(node) for name, sums, node in triples}


@dataclass(frozen=True, eq=False)
class _PatternRule:
    """The way back with patterns."""

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
            return [torch.where(node.weight == 0, 0.0, relevance / node.weight)]
        if node.kind not in PASSING:
            _refuse(node)
        return node.pullback(relevance)


def _refuse(node: Node) -> None:
    raise UnsupportedOperation(
        f"patterns are not defined for {node.place} (kind {node.kind!r}), only for convolutions, dense layers, "
        "batch-norms, rectifiers, pooling and sums; choose a method such as 'lrp.epsilon' or 'integrated_gradients'."
    )
