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
from pellucid.attribution._finite import check_inputs, check_outcome
from pellucid.attribution._method import Attribution, FittedState
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Request, Target
from pellucid.attribution._tokens import EmbeddedBatches, FromEmbedding, check_suits, is_tokens
from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.finite import bad_value, first_bad_row
from pellucid.core.isolation import isolated
from pellucid.core.options import check_values
from pellucid.engine.model import Chooser, check_model, check_skipped_padding, dtype_of, frozen, unwrap
from pellucid.engine.recorder import BatchMixed

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
        self._subject = Subject(unwrap(model), output, unwrap_softmax)
        self._tokens = Subject(FromEmbedding(unwrap(model), embedding), output, unwrap_softmax, what="sequence")

    def __repr__(self) -> str:
        return f"Analyzer({self.name!r}, {self.method!r})"

    @property
    def explains_other_outputs(self) -> bool:
        """True if the explained logits are not what the model returns, because of `output` or `unwrap_softmax`."""
        return self._subject.output is not None or self._subject.unwrap_softmax

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
        request = Target(target)
        with isolated():
            outcomes = self._run(x, request, is_certified=False)
            if missed := self._missed(outcomes):
                warnings.warn(missed, CompletenessWarning, stacklevel=2)
            maps = [outcome.relevance for outcome in outcomes]
            return torch.stack(maps, 1) if request.is_all else maps[0]

    def explain(self, x: Tensor, target: Request = None, *, strict: bool = False) -> Explanation:
        """Compute the relevance together with its completeness check; arguments as for `analyze`.

        Warns (`CompletenessWarning`) if a residual exceeds the method's tolerance (`strict` raises `ResidualError`
        instead), and (`AmplificationWarning`) if Σ|R| is more than 100 times the explained logit.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> explanation = create_analyzer("lrp.epsilon", model).explain(torch.rand(2, 1, 2, 2), target=1, strict=True)
        >>> bool(explanation.residual.abs().max() < 1e-5)
        True
        """
        request = Target(target)
        with isolated():
            outcomes = self._run(x, request, is_certified=True)
            targets = request.each(outcomes[0].logits)
            explained = [self._certify(outcome, one) for outcome, one in zip(outcomes, targets, strict=True)]
            explanation = Explanation.stack(explained) if request.is_all else explained[0]
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
        stacked = sums[0] if len(sums) == 1 else Completeness.stack(sums)
        return stacked.missed(self.name, self.method.remedy)

    def fit(self, loader: Iterable[Any]) -> "Analyzer":
        """Fit the method in one pass over batches of images (or of tuples that start with images)."""
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
            if first_bad_row(tensor[None]) is not None:
                raise DataError(f"the saved tensor {name!r} holds {bad_value(tensor)}; refit the method.")
        with isolated():
            self._subject.begin()
            self.method = self.method.restored(self._subject, state)
        return self

    def _run(self, x: Tensor, request: Target, *, is_certified: bool) -> list[Outcome]:
        """Validate the call and return one outcome, or one per class for `target="all"`."""
        if not (x.is_floating_point() or is_tokens(x)) or x.ndim < 2 or len(x) == 0:
            raise ShapeError(
                f"the images are {tuple(x.shape)} {x.dtype}; expected a batch of floats in [0, 1], (batch, …), "
                "or of token ids as integers, (batch, token)."
            )
        if not self.method.is_ready:
            raise ConfigError(f"the method {self.name!r} learns from data; call fit(loader) before explaining.")
        request.check(len(x))
        _check_baseline(self.method, x)
        if is_tokens(x):
            return self._run_tokens(x, request, is_certified)
        if x.dtype not in (torch.float32, torch.float64):
            raise ShapeError(
                f"the images are {x.dtype}, a precision at which maps are off by several percent and miss their sums; "
                "explain in float32: images.float(), and a float32 copy of the model."
            )
        self._from_embedding.refuse_floats()
        check_inputs(x)
        self._subject.begin()
        box = self.method.box()
        self._subject.box = None if box is None else box.check(x)
        with frozen(unwrap(self.model)) as model, _explained_dtype_errors(x, model):
            check_model(model)
            usual = self.method.images_per_pass(x)
            # A custom score may depend on the whole batch, so the batch is not split for it.
            size = len(x) if request.score is not None else self._subject.images_per_pass(x, usual)
            targets = self._targets(self._subject, x[:1], request)
            parts = [
                self._attribute(x.detach()[start : start + size], targets, slice(start, start + size), is_certified)
                for start in range(0, len(x), size)
            ]
            outcomes = [Outcome.join(outcomes) for outcomes in zip(*parts, strict=True)]
            self._check_padding(model, x, outcomes[0].logits)
        return outcomes

    def _check_padding(self, model: nn.Module, x: Tensor, logits: Tensor) -> None:
        # `logits_of` takes the log of the model's probabilities, so compare log-probabilities.
        explained = logits.log_softmax(1) if self._subject.unwrap_softmax else logits
        check_skipped_padding(model, x, self._subject.logits_of, explained)

    @property
    def _from_embedding(self) -> FromEmbedding:
        assert isinstance(self._tokens.model, FromEmbedding)
        return self._tokens.model

    def _run_tokens(self, ids: Tensor, request: Target, is_certified: bool) -> list[Outcome]:
        """Explain token ids at the output of the token embedding, one sequence at a time."""
        parts, model = [], self._from_embedding
        with frozen(unwrap(self.model)) as whole:
            check_model(whole)
            model.locate(ids)
            embedded = model.embed(ids)
            check_suits(self.name, self.method)
            check_inputs(embedded, "the embedding of sequence")
            box = self.method.box()
            bounds = None if box is None else box.check(embedded, axis=-1, noun="embeddings of tokens")
            for n in range(len(ids)):
                self._tokens.begin()
                self._tokens.first, self._tokens.box = n, bounds
                one, own = embedded[n : n + 1], request.part(slice(n, n + 1))
                with model.hold(ids[n : n + 1]):
                    targets = self._targets(self._tokens, one, own)
                    method = _for_part(self.method, slice(n, n + 1))
                    outcomes = method.attribute_each(self._tokens, one, targets, is_certified=is_certified)
                    self._check(self._tokens, outcomes, targets)
                    parts.append(outcomes)
            outcomes = [Outcome.join(outcomes) for outcomes in zip(*parts, strict=True)]
            self._check_padding(whole, ids, outcomes[0].logits)
        if request.score is not None:
            _check_score(request, [part[0] for part in parts], outcomes[0])
        return outcomes

    @staticmethod
    def _targets(subject: Subject, first: Tensor, request: Target) -> list[Target]:
        """Return the request, or one target per class for `target="all"`; `first` is a single image."""
        if not request.is_all:
            return [request]
        with torch.no_grad():
            return request.each(subject.logits(first.detach()))

    def _attribute(self, images: Tensor, targets: Sequence[Target], which: slice, is_certified: bool) -> list[Outcome]:
        """Explain one batch, the images `which` of the call; one by one if the model mixes images."""

        def attribute(part: Tensor, which: slice) -> list[Outcome]:
            own, self._subject.first = [target.part(which) for target in targets], which.start
            outcomes = _for_part(self.method, which).attribute_each(self._subject, part, own, is_certified=is_certified)
            self._check(self._subject, outcomes, own)
            self._subject.check_alone(part, outcomes[0].logits)
            return outcomes

        if not self._subject.is_mixed:
            try:
                return attribute(images, which)
            except BatchMixed:
                self._subject.is_mixed = True  # later batches of this call run image by image right away
        first = which.start
        singles = [attribute(images[n : n + 1], slice(first + n, first + n + 1)) for n in range(len(images))]
        outcomes = [Outcome.join(parts) for parts in zip(*singles, strict=True)]
        if targets[0].score is not None:
            _check_score(targets[0], [parts[0] for parts in singles], outcomes[0])
        return outcomes

    def _check(self, subject: Subject, outcomes: Sequence[Outcome], targets: Sequence[Target]) -> None:
        """Raise for the first image of a batch with NaN or infinities in logits, scores or maps."""
        subject.check_finite(outcomes[0].logits, targets)
        for outcome in outcomes:
            check_outcome(outcome, self.method, self.name, what=subject.what, first=subject.first)

    def _certify(self, outcome: Outcome, target: Target) -> Explanation:
        size = outcome.relevance.flatten(1).abs().sum(1)
        own, against = target.scores(outcome.logits).detach(), None
        if target.score is None:
            against = target.against(outcome.logits)
        sums = self.method.completeness(outcome)
        ones = torch.ones(len(size), dtype=torch.int64, device=size.device)
        # Σ|R| is only comparable to the logit if the method distributes a promised sum.
        is_sharing = outcome.promised is not None
        return Explanation(
            relevance=outcome.relevance,
            target=outcome.classes,
            logits=outcome.logits,
            expected=None if sums is None else sums.expected,
            residual=None if sums is None else sums.residual,
            absorbed=outcome.absorbed,
            absorbed_by=outcome.absorbed_by,
            amplification=size / own.abs().clamp(min=1e-12) if is_sharing else torch.zeros_like(size),
            allowed=None if sums is None else sums.allowed,
            evaluations=ones if outcome.evaluations is None else outcome.evaluations,
            seed=getattr(self.method, "seed", None),
            method=self.name,
            details=outcome.details if against is None else {**outcome.details, "against": against},
            notes=outcome.notes,
            remedy=self.method.remedy,
        )


def _check_score(request: Target, alone: Sequence[Outcome], together: Outcome) -> None:
    """Raise `ShapeError` if a custom score depends on the rest of the batch, for inputs explained one at a time."""
    scores = torch.cat([request.scores(part.logits).detach() for part in alone])
    if not torch.allclose(scores, request.scores(together.logits).detach(), rtol=1e-3, atol=1e-6):
        raise ShapeError(
            "the target function's score of an input depends on the rest of the batch. Token sequences and images that "
            "the model mixes, are explained one at a time, so the function must accept outputs of shape (1, …) "
            "and score each row independently."
        )


def _check_baseline(method: Attribution, x: Tensor) -> None:
    """Raise `ShapeError` unless the baseline has one row, or one per image."""
    rows = _rows_of_baseline(method)
    if rows > 1 and rows != len(x):
        raise ShapeError(f"the baseline has {rows} rows for {len(x)} images; pass one for all, or one per image.")


def _for_part(method: Attribution, which: slice) -> Attribution:
    """Return the method for some images of the call, with the matching rows of a per-image baseline."""
    if _rows_of_baseline(method) <= 1:
        return method
    return replace(method, baseline=getattr(method, "baseline")[which])  # type: ignore[call-arg]  # noqa: B009


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
