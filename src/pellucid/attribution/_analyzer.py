"""The analyzer: one attribution method bound to one model."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution import METHODS
from pellucid.attribution._aliases import ALIASES
from pellucid.attribution._explanation import (
    AmplificationWarning,
    Completeness,
    CompletenessWarning,
    Explanation,
    Outcome,
)
from pellucid.attribution._finite import check_outcome
from pellucid.attribution._fitting import FittedState
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question, Request, Target
from pellucid.attribution._tokens import EmbeddedBatches, FromEmbedding, check_suits, is_tokens
from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.finite import bad_value, check_inputs, first_bad_row
from pellucid.core.isolation import isolated
from pellucid.core.options import check_values
from pellucid.engine.axes import BatchMixed
from pellucid.engine.model import Chooser, Readout, check_model, check_skipped_padding, dtype_of, frozen, unwrap

__all__ = ["Analyzer", "create_analyzer"]

WARN_ABOVE = 100.0
"""Amplification Σ|R| / |logit| above which an explanation warns."""


def create_analyzer(
    name: str,
    model: nn.Module,
    *,
    output: int | str | Callable[[Any], Tensor] | None = None,
    unwrap_softmax: bool = False,
    embedding: str | None = None,
    **options: Any,
) -> "Analyzer":
    """Create an analyzer that explains `model` with the method `name`.

    `options` are the fields of the method. `output` selects the logits of a model with several outputs: an index, a key
    or field, or a function of the outputs. `unwrap_softmax` explains the logits before the model's final softmax.
    `embedding` names the token embedding if a model applies several to its token ids. Method names from captum and
    iNNvestigate also work.

    Raises `UnknownName` for an unknown method, and `ConfigError` for an unknown option or an invalid value.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> analyzer = create_analyzer("lrp.epsilon", model, epsilon=1e-6)
    >>> analyzer.analyze(torch.rand(2, 1, 2, 2)).shape
    torch.Size([2, 1, 2, 2])
    """
    name, preset = ALIASES.get(name, (name, {}))
    entry = METHODS[name]
    known = [option.name for option in fields(entry)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(
            f"the method {name!r} has no option {unknown[0]!r}; its options are: {', '.join(known) or '(none)'}."
        )
    options = {**preset, **options}
    # Before construction, so that errors about options do not come from a method's own __post_init__.
    check_values(entry, options)
    method = entry(**options)
    return Analyzer(method, model, name=name, output=output, unwrap_softmax=unwrap_softmax, embedding=embedding)


class Analyzer:
    """An attribution method bound to a model. Leaves the model, its mode, the images and all random states unchanged.

    Analyzers and models can be shared between threads: calls are serialized, so results do not depend on other threads.
    Maps do not depend on the caller's autocast, inference or gradient mode either.
    """

    def __init__(
        self,
        method: Attribution,
        model: nn.Module,
        *,
        name: str,
        output: Chooser = None,
        unwrap_softmax: bool = False,
        embedding: str | None = None,
    ) -> None:
        self.method = method
        self.model = model
        self.name = name
        readout = Readout(output, unwrap_softmax)
        self._subject = Subject(unwrap(model), readout)
        self._tokens = Subject(FromEmbedding(unwrap(model), embedding), readout, what="sequence")

    def __repr__(self) -> str:
        return f"Analyzer({self.name!r}, {self.method!r})"

    @property
    def explains_other_outputs(self) -> bool:
        """True if the explained logits are not what the model returns, because of `output` or `unwrap_softmax`."""
        return self._subject.readout != Readout()

    def analyze(self, x: Tensor, target: Request = None) -> Tensor:
        """Compute the relevance of each input for the target, in the shape of `x`.

        `x` is (batch, …) in float32 or float64, or integer token ids (batch, token). For token ids, the relevance is
        that of the token embeddings, (batch, token, feature); sum over the features for the relevance per token.

        `target` is

        - None: the predicted class of each image (for a regression with several outputs, the largest);
        - one class, or one per image as a tensor or a list (for a regression, the index of the output);
        - `Contrast(a, b)`: class a minus class b;
        - a function outputs -> (batch,) that computes a differentiable score from the outputs, (batch, …);
        - `"all"`: every class; the relevance is (batch, class, …), and the classes share one forward pass.

        Raises `UnsupportedOperation` if the model contains an operation for which the method has no rule, `ShapeError`
        for images or targets of the wrong shape, `ConfigError` for an invalid target or images outside the method's
        bounds, and `DataError` or `ModelError`, with the index of the first affected image, for NaN or infinities in
        inputs, logits or maps. Warns (`CompletenessWarning`) if a map misses its sum, for methods that know the sum
        without extra work.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> create_analyzer("gradient", model).analyze(torch.rand(2, 1, 2, 2), "all").shape
        torch.Size([2, 3, 1, 2, 2])
        """
        with isolated():
            outcomes, _ = self._run(x, target, is_certified=False)
            if missed := self._missed(outcomes):
                warnings.warn(missed, CompletenessWarning, stacklevel=2)
            maps = [outcome.relevance for outcome in outcomes]
            return torch.stack(maps, 1) if isinstance(target, str) else maps[0]

    def explain(self, x: Tensor, target: Request = None, *, strict: bool = False) -> Explanation:
        """Compute the relevance together with its completeness check; arguments as for `analyze`.

        Warns (`CompletenessWarning`) if a residual exceeds the method's tolerance (`strict` raises `ResidualError`
        instead), and (`AmplificationWarning`) if Σ|R| is more than 100 times the explained logit.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> explanation = create_analyzer("lrp.epsilon", model).explain(torch.rand(2, 1, 2, 2), target=1, strict=True)
        >>> bool(explanation.residual.abs().max() < 1e-5)
        True
        """
        with isolated():
            pairs = zip(*self._run(x, target, is_certified=True), strict=True)
            explained = [Explanation.of(outcome, one, self.method, self.name) for outcome, one in pairs]
            explanation = Explanation.stack(explained) if isinstance(target, str) else explained[0]
        worst = float(explanation.amplification.max()) if len(x) else 0.0
        if worst > WARN_ABOVE:
            warnings.warn(
                f"{self.name}: positive and negative relevance almost cancel; Σ|R| is up to {worst:.3g} times the "
                "explained logit, so most of the map is noise. Methods with γ or z⁺ rules, such as "
                "'lrp.gamma', are less noisy.",
                AmplificationWarning,
                stacklevel=2,
            )
        if strict:
            explanation.check()
        elif missed := explanation.missed():
            warnings.warn(missed, CompletenessWarning, stacklevel=2)
        return explanation

    def _missed(self, outcomes: Sequence[Outcome]) -> str:
        """Describe the worst missed sum, for methods that know their sums without recording absorbed shares."""
        sums = [one for outcome in outcomes if (one := self.method.completeness(outcome)) is not None]
        if not sums:
            return ""
        # Unstacked, so that the message names no class if there is a single target.
        stacked = sums[0] if len(sums) == 1 else Completeness.stack(sums)
        return stacked.missed(self.name, self.method.remedy)

    def fit(self, loader: Iterable[Any]) -> "Analyzer":
        """Fit the method in one pass over batches of images (or of tuples that start with images)."""
        # The loader runs inside as well: it may draw random numbers, and these must not disturb the caller's.
        with isolated(), frozen(unwrap(self.model)) as model:
            self._subject.begin()
            check_model(model)
            batches = EmbeddedBatches(loader, self._from_embedding.embed)
            if batches.is_needed:
                self._from_embedding.locate(batches.ids)
            subject = self._tokens if batches.is_needed else self._subject
            self.method = self.method.fitted(subject, batches)
        return self

    def state(self) -> FittedState:
        """Return the fitted state, for `pellucid.save_fitted`."""
        method = self.method  # read once: another thread may replace it by fitting
        if not method.is_ready:
            raise ConfigError(f"the method {self.name!r} is not fitted yet; call fit(loader) first.")
        return method.state()

    def restore(self, state: FittedState) -> "Analyzer":
        """Load a fitted state; `ConfigError` if it belongs to another method or to other weights."""
        for name, tensor in state.tensors.items():
            # The added axis makes the whole tensor one row.
            if first_bad_row(tensor[None]) is not None:
                raise DataError(f"the saved tensor {name!r} holds {bad_value(tensor)}; refit the method.")
        with isolated():
            self._subject.begin()
            self.method = self.method.restored(self._subject, state)
        return self

    def _run(self, x: Tensor, target: Request, *, is_certified: bool) -> tuple[list[Outcome], Sequence[Target]]:
        """Validate the call; return the outcome of each explained target, and the targets."""
        own = self._subject.readout
        question = Question(own.output, own.unwrap_softmax, is_certified, (Target(target),))
        self._check_call(x, question.targets[0])
        with frozen(unwrap(self.model)) as model:
            check_model(model)
            # Integers have no gradient, so token ids take a path of their own.
            run = self._run_images if x.is_floating_point() else self._run_tokens
            outcomes, targets = run(x, question)
            # `logits_of` takes the log of the model's probabilities, so compare log-probabilities.
            logits = outcomes[0].logits
            explained = logits.log_softmax(1) if own.unwrap_softmax else logits
            check_skipped_padding(model, x, self._subject.logits_of, explained)
        return outcomes, targets

    def _check_call(self, x: Tensor, target: Target) -> None:
        if not (x.is_floating_point() or is_tokens(x)) or x.ndim < 2 or len(x) == 0:
            raise ShapeError(
                f"the images are {tuple(x.shape)} {x.dtype}; expected a batch of floats in [0, 1], (batch, …), "
                "or of token ids as integers, (batch, token)."
            )
        if not self.method.is_ready:
            raise ConfigError(f"the method {self.name!r} learns from data; call fit(loader) before explaining.")
        target.check(len(x))
        rows = _rows_of_baseline(self.method)
        if rows > 1 and rows != len(x):
            raise ShapeError(f"the baseline has {rows} rows for {len(x)} images; pass one for all, or one per image.")
        if x.is_floating_point() and x.dtype not in (torch.float32, torch.float64):
            raise ShapeError(
                f"the images are {x.dtype}, a precision at which maps are off by several percent and miss their sums; "
                "explain in float32: images.float(), and a float32 copy of the model."
            )
        # A name that cannot have an effect is a mistake of the caller.
        if x.is_floating_point() and self._from_embedding.wanted is not None:
            self._from_embedding.refuse_floats()

    def _run_images(self, x: Tensor, question: Question) -> tuple[list[Outcome], Sequence[Target]]:
        """Explain images in batches, as large as is fast."""
        # NaN and infinities would spread to every value of a batch norm or a max, and no error could name the image.
        check_inputs(x)
        box, subject = self.method.box(), self._subject
        subject.begin(None if box is None else box.check(x))
        with _explained_dtype_errors(x, subject.model):
            # A custom score may depend on the whole batch, so the batch is not split for it.
            is_whole = question.targets[0].score is not None
            size = len(x) if is_whole else subject.images_per_pass(x, self.method.images_per_pass(x))
            # One image is enough to count the classes.
            question = _expanded(question, subject, x[:1])
            starts = range(0, len(x), size)
            parts = [self._explain_batch(x, question, slice(n, min(n + size, len(x)))) for n in starts]
        return _joined(parts), question.targets

    def _explain_batch(self, x: Tensor, question: Question, which: slice) -> list[Outcome]:
        """Explain one batch of the images; one by one if the model mixes them."""
        subject = self._subject
        if not subject.is_mixed:
            try:
                return self._explain(subject, x, question, which)
            except BatchMixed:
                subject.is_mixed = True  # later batches of this call run image by image right away
        singles = [self._explain(subject, x, question, slice(n, n + 1)) for n in range(which.start, which.stop)]
        return _joined_singles(singles, question)

    def _run_tokens(self, ids: Tensor, question: Question) -> tuple[list[Outcome], Sequence[Target]]:
        """Explain token ids at the output of the token embedding, one sequence at a time."""
        model, subject = self._from_embedding, self._tokens
        model.locate(ids)
        embedded = model.embed(ids)
        check_suits(self.name, self.method)
        check_inputs(embedded, "the embedding of sequence")
        box = self.method.box()
        bounds = None if box is None else box.check(embedded, axis=-1, noun="embeddings of tokens")
        singles = []
        for n in range(len(ids)):
            subject.begin(bounds)
            with model.hold(ids[n : n + 1]):
                question = _expanded(question, subject, embedded[n : n + 1])  # once: there is no "all" afterwards
                singles.append(self._explain(subject, embedded, question, slice(n, n + 1)))
        return _joined_singles(singles, question), question.targets

    def _explain(self, subject: Subject, x: Tensor, question: Question, which: slice) -> list[Outcome]:
        """Run the method on some inputs of the call, and check that its results are finite."""
        images, question = x.detach()[which], question.part(which)
        subject.first = which.start  # errors name images by their place in the call
        method = self.method
        if _rows_of_baseline(method) > 1:  # one baseline per image
            method = replace(method, baseline=getattr(method, "baseline")[which])  # type: ignore[call-arg]  # noqa: B009
        outcomes = method.attribute_each(subject, images, question)
        subject.check_finite(outcomes[0].logits, question.targets)
        for outcome in outcomes:
            if not outcome.is_finite:
                check_outcome(outcome, self.method, self.name, what=subject.what, first=subject.first)
        if subject is self._subject:  # sequences run alone anyway
            subject.check_alone(images, outcomes[0].logits)
        return outcomes

    @property
    def _from_embedding(self) -> FromEmbedding:
        assert isinstance(self._tokens.model, FromEmbedding)
        return self._tokens.model


def _expanded(question: Question, subject: Subject, first: Tensor) -> Question:
    """Replace the target "all" by one target per class; `first` is a single image."""
    if not question.targets[0].is_all:
        return question
    with torch.no_grad():
        return replace(question, targets=tuple(question.targets[0].each(subject.logits(first.detach()))))


def _joined(parts: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Join the outcomes of several batches, target by target."""
    return [Outcome.join(outcomes) for outcomes in zip(*parts, strict=True)]


def _joined_singles(singles: Sequence[Sequence[Outcome]], question: Question) -> list[Outcome]:
    """Join outcomes of single inputs; `ShapeError` if a custom score of an input depends on the rest of the batch."""
    outcomes, target = _joined(singles), question.targets[0]
    if target.score is not None:
        alone = torch.cat([target.scores(single[0].logits).detach() for single in singles])
        if not torch.allclose(alone, target.scores(outcomes[0].logits).detach(), rtol=1e-3, atol=1e-6):
            raise ShapeError(
                "the target function's score of an input depends on the rest of the batch. Token sequences and images "
                "that the model mixes, are explained one at a time, so the function must accept outputs of shape "
                "(1, …) and score each row independently."
            )
    return outcomes


def _rows_of_baseline(method: Attribution) -> int:
    """Number of rows of a baseline tensor; 1 for a shared baseline."""
    baseline = getattr(method, "baseline", None)
    return len(baseline) if isinstance(baseline, Tensor) and baseline.ndim > 2 else 1


@contextmanager
def _explained_dtype_errors(x: Tensor, model: nn.Module) -> Iterator[None]:
    """Turn a torch dtype error into a `ShapeError` that names the dtypes of images and model."""
    try:
        yield
    except RuntimeError as error:
        if x.dtype != dtype_of(model) and "type" in str(error):
            raise ShapeError(
                f"the images are {x.dtype} and the model is {dtype_of(model)}; "
                f"pass images of the model's dtype ({error})."
            ) from error
        raise
