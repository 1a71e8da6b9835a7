"""The analyzer: one attribution method bound to one model."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._baselines import check_baseline
from pellucid.attribution._by_layer import LayerExplanations
from pellucid.attribution._call import Call
from pellucid.attribution._channels import ChannelExplanation, explain_channels
from pellucid.attribution._explanation import (
    AmplificationWarning,
    Completeness,
    CompletenessWarning,
    Explanation,
    Outcome,
)
from pellucid.attribution._fitting import Batches, FittedState
from pellucid.attribution._function import ArrayFunction, check_suits_function
from pellucid.attribution._hidden import ToLayer
from pellucid.attribution._method import Attribution
from pellucid.attribution._received import Received, check_images, copied, first_pass, unit_of
from pellucid.attribution._several import FromInputs, Packing
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question, Request, Target
from pellucid.attribution._tokens import FromEmbedding, WithMasks, among_masks, check_suits, is_tokens
from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.finite import bad_value, check_inputs, first_bad_row
from pellucid.core.isolation import isolated
from pellucid.engine.arrays import described
from pellucid.engine.hidden import check_names
from pellucid.engine.inputs import Several, as_inputs, check_is_model
from pellucid.engine.model import Network, Readout, check_model, check_skipped_padding, frozen, unwrap
from pellucid.engine.outputs import Chooser, check_chooser
from pellucid.engine.units import Channels, Unit

__all__ = ["Analyzer"]

WARN_ABOVE = 100.0
"""Amplification Σ|R| / |logit| above which an explanation warns."""


class Analyzer:
    """An attribution method bound to a model. Leaves the model, its mode, the images and all random states unchanged.

    Analyzers and models can be shared between threads: calls are serialized, so results do not depend on other threads.
    Maps do not depend on the caller's autocast, inference or gradient mode either.
    """

    def __init__(
        self,
        method: Attribution,
        model: Network,
        *,
        name: str,
        output: Chooser = None,
        unwrap_softmax: bool = False,
        embedding: str | None = None,
    ) -> None:
        check_is_model(unwrap(model))
        for option, value, kinds in (("unwrap_softmax", unwrap_softmax, bool), ("embedding", embedding, str | None)):
            if not isinstance(value, kinds):
                raise ConfigError(f"{option} is {value!r}; expected {'True or False' if kinds is bool else 'a name'}.")
        if isinstance(model, ArrayFunction):
            agnostic = [] if method.is_model_agnostic else _model_agnostic()
            check_suits_function(name, method.is_model_agnostic, unwrap_softmax, agnostic)
        self.method = method
        self.model = model
        self.name = name
        readout = Readout(check_chooser(output), unwrap_softmax)
        self._subject = Subject(unwrap(model), readout)
        self._tokens = Subject(FromEmbedding(unwrap(model), embedding), readout, what="sequence")
        self._several: tuple[Any, Subject] | None = None
        """The structure and shapes of the last several inputs, and the model as a function of these inputs joined."""
        self._unit: tuple[str, Analyzer] | None = None
        """The layer of the last explained unit, and the analyzer of the model up to that layer."""

    def __repr__(self) -> str:
        return f"Analyzer({self.name!r}, {self.method!r})"

    @property
    def explains_other_outputs(self) -> bool:
        """True if the explained logits are not what the model returns, because of `output` or `unwrap_softmax`."""
        return self._subject.readout != Readout()

    def analyze(self, x: Any, target: Request = None, *, to: str | Sequence[str] | None = None) -> Any:
        """Compute the relevance of each input for the target, in the shape of `x`.

        `x` is (batch, …) in float32 or float64, or integer token ids (batch, token). For token ids, the relevance is
        that of the token embeddings, (batch, token, feature); sum over the features for the relevance per token. NumPy
        arrays and nested lists of numbers are converted.

        For a model with several inputs, `x` is a tuple (positional arguments of the model) or a dict (keyword
        arguments), possibly nested; the maps have the same structure, and their values together have one sum. Integer
        and boolean inputs, such as masks, are not differentiated: their map is None, and examples run one at a time. If
        no input holds floats, the relevance is that of the embeddings of the token ids among them.
        Options such as `baseline`, `low` and `window` then take one value for all inputs, or one per input in the
        same structure.

        `target` is

        - None: the predicted class of each image (for a regression with several outputs, the largest);
        - one class, or one per image as a tensor or a list (for a regression, the index of the output);
        - `Contrast(a, b)`: class a minus class b;
        - `Unit("layer3.0", channel=12)`: a hidden unit, whose activation takes the place of the logit;
        - a function outputs -> (batch,) that computes a differentiable score from the outputs, (batch, …);
        - `"all"`: every class; the relevance is (batch, class, …), and the classes share one forward pass.

        `to` names a layer, as in `model.named_modules()`: the relevance is then that of the layer's output, in its
        shape. For a list of layers, it is a dict of maps by layer. A module that is called several times has one output
        per call: `"relu@1"` is the second. The output of a module that returns a tuple is the first entry.

        Raises `UnsupportedOperation` if the model contains an operation for which the method has no rule, `ShapeError`
        for inputs or targets of the wrong shape or kind, `ConfigError` for an invalid target or images outside the
        method's bounds, and `DataError` or `ModelError`, with the index of the first affected image, for NaN or
        infinities in inputs, logits or maps. Warns (`CompletenessWarning`) if a map misses its sum, for methods that
        know the sum without extra work.

        >>> from torch import nn
        >>> from pellucid.attribution import create_analyzer
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> create_analyzer("gradient", model).analyze(torch.rand(2, 1, 2, 2), "all").shape
        torch.Size([2, 3, 1, 2, 2])
        """
        if isinstance(target, Unit) and not isinstance(self._subject.model, ToLayer):
            return self._of_unit(target).analyze(x, target, to=to)
        with isolated():
            inputs = self._received(x)
            layers = self._layers(to)
            outcomes, _ = self._run(inputs, target, layers, is_certified=False)
            if missed := self._missed(outcomes):
                warnings.warn(missed, CompletenessWarning, stacklevel=2)
            maps = []
            for number in range(len(layers or ("",))):
                own = [outcome.relevance for outcome in outcomes[number :: len(layers) or 1]]
                maps.append(torch.stack(own, 1) if isinstance(target, str) else own[0])
            if layers:
                return maps[0] if isinstance(to, str) else dict(zip(layers, maps, strict=True))
            return maps[0] if isinstance(inputs, Tensor) else inputs.unpacked(maps[0])

    @overload
    def explain(
        self, x: Any, target: Request = None, *, to: str | None = None, strict: bool = False
    ) -> Explanation: ...
    @overload
    def explain(
        self, x: Any, target: Request = None, *, to: list[str] | tuple[str, ...], strict: bool = False
    ) -> LayerExplanations: ...
    def explain(
        self, x: Any, target: Request = None, *, to: str | Sequence[str] | None = None, strict: bool = False
    ) -> Explanation | LayerExplanations:
        """Compute the relevance together with its completeness check; arguments as for `analyze`.

        With a list of layers as `to`, returns one explanation per layer, in a mapping by name. At each layer that all
        paths pass through, the relevance sums to the explained logit minus what operations above it absorb; elsewhere,
        `details["bypassed"]` is the relevance that other paths carry. `flow()` shows how it splits.

        Warns (`CompletenessWarning`) if a residual exceeds the method's tolerance (`strict` raises `ResidualError`
        instead), and (`AmplificationWarning`) if Σ|R| is more than 100 times the explained logit.

        >>> from torch import nn
        >>> from pellucid.attribution import create_analyzer
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> explanation = create_analyzer("lrp.epsilon", model).explain(torch.rand(2, 1, 2, 2), target=1, strict=True)
        >>> bool(explanation.residual.abs().max() < 1e-5)
        True
        """
        if isinstance(target, Unit) and not isinstance(self._subject.model, ToLayer):
            own: Any = self._of_unit(target)
            return own.explain(x, target, to=to, strict=strict)
        with isolated():
            inputs, layers = self._received(x), self._layers(to)
            outcomes, targets = self._run(inputs, target, layers, is_certified=True)
            every = [
                self._explanation(outcomes[number :: len(layers) or 1], targets, inputs, layer, isinstance(target, str))
                for number, layer in enumerate(layers or ("",))
            ]
        for explanation in every:
            self._judge(explanation, strict=strict)
        return every[0] if to is None or isinstance(to, str) else LayerExplanations(every)

    def explain_channels(
        self,
        x: Any,
        layer: Any,
        target: Request = None,
        *,
        channels: Any = 8,
        axis: int | None = None,
    ) -> ChannelExplanation:
        """Compute the relevance of all channels of a layer, and a map of the input for some of them (CRP).

        A channel's map is the relevance that passes through it: that of the layer's other channels, and of paths around
        the layer, is set to zero. One forward pass serves all maps; each then costs one backward pass over the part of
        the network below the layer.

        Args:
            x: the inputs, as for `analyze`.
            layer: name of a layer, as in `model.named_modules()`; `"relu@1"` is the second call of a module.
            target: as for `analyze`, except `"all"`.
            channels: number of channels with a map, those with the largest relevance of each image; or indices
                (channel,), or one row of indices per image, (batch, channel).
            axis: channel axis of the layer's output. Default: 1. Outputs with three axes may be (batch, channel,
                length), axis=1, or (batch, token, feature), axis=-1, and need it.

        Raises the errors of `explain`, and `ConfigError` for methods without rules. Warns (`CompletenessWarning`) if a
        map does not sum to its channel's relevance minus what operations below the layer absorb.

        Source: Achtibat et al., "From attribution maps to human-understandable explanations through concept relevance
        propagation", 2023.

        >>> from torch import nn
        >>> from pellucid.attribution import create_analyzer
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> through = create_analyzer("lrp.epsilon", model).explain_channels(torch.rand(2, 1, 4, 4), "1", channels=2)
        >>> through.relevance.shape, through.maps.shape
        (torch.Size([2, 4]), torch.Size([2, 2, 1, 4, 4]))
        """
        if isinstance(target, Unit) and not isinstance(self._subject.model, ToLayer):
            return self._of_unit(target).explain_channels(x, layer, target, channels=channels, axis=axis)
        with isolated():
            through = explain_channels(self, x, layer, target, channels, axis)
        self._judge(through.at_layer, strict=False)
        if missed := through.missed():
            warnings.warn(missed, CompletenessWarning, stacklevel=2)
        return through

    def _explanation(
        self, outcomes: Sequence[Outcome], targets: Sequence[Target], inputs: Received, layer: str, is_all: bool
    ) -> Explanation:
        """Return the explanation of all targets at one layer, or at the input."""
        pairs = zip(outcomes, targets, strict=True)
        explained = [Explanation.of(outcome, one, self.method, self.name, layer) for outcome, one in pairs]
        explanation = Explanation.stack(explained) if is_all else explained[0]
        if not isinstance(inputs, Tensor) and not layer:
            errors = explanation.details.get("standard_error")
            details = {} if errors is None else {"standard_error": inputs.unpacked(errors)}
            relevance = inputs.unpacked(explanation.relevance)
            explanation = replace(explanation, relevance=relevance, details={**explanation.details, **details})
        unit = explanation.unit.replace("{input}", "activation") if layer else unit_of(explanation.unit, inputs)
        return replace(explanation, inputs=copied(inputs), unit=unit)

    def _judge(self, explanation: Explanation, *, strict: bool) -> None:
        """Warn if a map is mostly noise or misses its sum; raise `ResidualError` for the latter if `strict`."""
        where = f" at {explanation.layer}" if explanation.layer else ""
        worst = float(explanation.amplification.max())
        if worst > WARN_ABOVE:
            warnings.warn(
                f"{self.name}: positive and negative relevance almost cancel{where}; Σ|R| is up to {worst:.3g} times "
                "the explained logit, so most of the map is noise. Methods with γ or z⁺ rules, such as "
                "'lrp.gamma', are less noisy.",
                AmplificationWarning,
                stacklevel=3,
            )
        if strict:
            explanation.check()
        elif missed := explanation.missed():
            warnings.warn(missed, CompletenessWarning, stacklevel=3)

    def _of_unit(self, unit: Unit) -> "Analyzer":
        """Return the analyzer of the model up to the unit's layer."""
        if self._unit is None or self._unit[0] != unit.layer:
            check_names(self._subject.model, [unit.layer])
            model = ToLayer(self._subject.model, unit.layer)
            self._unit = unit.layer, Analyzer(self.method, model, name=self.name, embedding=self._from_embedding.wanted)
        analyzer = self._unit[1]
        analyzer.method = self.method  # it may have been fitted since
        return analyzer

    def _layers(self, to: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the layers to explain, validated; none for the input."""
        if to is None:
            return ()
        given: Any = to
        names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"to is {to!r}; expected the name of a layer, or a list of names, as in model.named_modules()."
            )
        if not self.method.reaches_layers:
            raise ConfigError(
                f"the method {self.name!r} defines no relevance at hidden layers; omit to=, or choose a method that "
                "does, such as 'lrp.epsilon', 'deeplift', 'gradient', 'integrated_gradients' or 'conductance'."
            )
        check_names(self._subject.model, names)
        return names

    def _missed(self, outcomes: Sequence[Outcome]) -> str:
        """Describe the worst missed sum, for methods that know their sums without recording absorbed shares."""
        sums = [one for outcome in outcomes if (one := self.method.completeness(outcome)) is not None]
        if not sums:
            return ""
        # Unstacked, so that the message names no class if there is a single target.
        stacked = sums[0] if len(sums) == 1 else Completeness.stack(sums)
        return stacked.missed(self.name, self.method.remedy)

    def fit(self, loader: Iterable[Any]) -> "Analyzer":
        """Fit the method in one pass over batches of inputs (or of tuples that start with inputs).

        A batch of several inputs is a dict, or a tuple that starts with a dict or with a tuple of inputs.
        """
        # The loader runs inside as well: it may draw random numbers, and these must not disturb the caller's.
        with isolated(), frozen(unwrap(self.model)) as model:
            self._subject.begin()
            check_model(model)
            batches = Batches(loader, model)
            if isinstance(batches.first, Several):
                self._fit_several(batches, Packing.of(batches.first, model))
            elif batches.first is not None and is_tokens(batches.first):
                self._from_embedding.locate(batches.first)
                batches.convert = self._from_embedding.embed
                self.method = self.method.fitted(self._tokens, batches)
            else:
                x = torch.tensor([], device="cpu") if batches.first is None else batches.first
                with self._subject.explained_errors(x):
                    self.method = self.method.fitted(self._subject, batches)
        return self

    def _fit_several(self, batches: Batches, packing: Packing) -> None:
        method, subject = packing.adapted(self.method, self.name), self._subject_for(packing)
        inputs, key = subject.model, packing.key
        assert isinstance(inputs, FromInputs)

        def convert(x: Tensor | Several) -> Tensor:
            own = Packing.of(x, self._subject.model) if isinstance(x, Several) else None
            if own is None or own.key != key:
                received = x.described() if isinstance(x, Several) else described(x)
                raise ShapeError(
                    f"the loader yields {received} after {packing.several.described()}; fitting needs inputs of the "
                    "same structure and shapes in all batches."
                )
            return own.packed()

        batches.convert = convert
        with inputs.taking(packing):
            subject.begin()
            with subject.explained_errors(packing.packed()):
                self.method = method.fitted(subject, batches)

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

    def _run(
        self,
        x: Received,
        target: Request,
        layers: tuple[str, ...],
        *,
        is_certified: bool,
        channels: Channels | None = None,
    ) -> tuple[list[Outcome], Sequence[Target]]:
        """Validate the call; return the outcome of each explained target and layer, and the targets."""
        own = self._subject.readout
        question = Question(own.output, own.unwrap_softmax, is_certified, layers, channels, (Target(target),))
        self._check_call(x, question.targets[0])
        with frozen(unwrap(self.model)) as model:
            check_model(model)
            if isinstance(model, ToLayer):
                model.check(first_pass(x))
            # Integers have no gradient, so token ids take a path of their own.
            if isinstance(x, Packing):
                outcomes, targets = self._run_several(x, question)
            elif isinstance(x, WithMasks):
                subject = Subject(FromEmbedding(x, self._from_embedding.wanted), own, what="sequence")
                outcomes, targets = self._run_tokens(subject, x.ids, question)
            elif x.is_floating_point():
                outcomes, targets = self._run_images(x, question)
            else:
                outcomes, targets = self._run_tokens(self._tokens, x, question)
            # `logits_of` takes the log of the model's probabilities, so compare log-probabilities.
            logits = outcomes[0].logits
            explained = logits.log_softmax(1) if own.unwrap_softmax else logits
            again = (lambda model: model(x.clone())) if isinstance(x, Tensor) else x.rerun
            check_skipped_padding(model, again, self._subject.logits_of, explained)
        return outcomes, targets

    def _received(self, x: Any) -> Received:
        """Convert the inputs of a call. Raises `ShapeError` for anything that is not made of numbers."""
        # A function, which has no dtype, takes arrays in their own.
        model: Any = self._subject.model
        inputs = as_inputs(x, model.call if isinstance(model, ArrayFunction) else model)
        if isinstance(inputs, Tensor):
            return inputs
        if inputs.floats:
            return Packing.of(inputs, self._subject.model)
        with frozen(self._subject.model) as model:
            tokens = among_masks(inputs, model, self._from_embedding.wanted).model
        assert isinstance(tokens, WithMasks)
        return tokens

    def _check_call(self, x: Received, target: Target) -> None:
        if isinstance(x, Tensor) and not is_tokens(x):
            check_images(x)
        elif isinstance(x, Tensor) and isinstance(self.model, ArrayFunction):
            raise ShapeError(
                f"the inputs are {described(x)}; a function of arrays takes floats here, since integers are token ids, "
                "which need an embedding. Pass x.double() and convert it inside the function."
            )
        if not self.method.is_ready:
            raise ConfigError(f"the method {self.name!r} learns from data; call fit(loader) before explaining.")
        target.check(len(x) if isinstance(x, Tensor) else x.several.batch)
        # A name that cannot have an effect is a mistake of the caller.
        if isinstance(x, Packing) or (isinstance(x, Tensor) and x.is_floating_point()):
            self._from_embedding.refuse_floats()

    def _run_images(self, x: Tensor, question: Question) -> tuple[list[Outcome], Sequence[Target]]:
        # NaN and infinities would spread to every value of a batch norm or a max, and no error could name the image.
        check_inputs(x)
        check_baseline(self.method, x)
        box, subject = self.method.box(), self._subject
        subject.begin(None if box is None else box.check(x))
        call = Call(self.name, self.method, subject, x, question)
        return call.in_batches(), call.question.targets

    def _run_tokens(self, subject: Subject, ids: Tensor, question: Question) -> tuple[list[Outcome], Sequence[Target]]:
        """Explain token ids at the output of the token embedding, one sequence at a time."""
        model = subject.model
        assert isinstance(model, FromEmbedding)
        model.locate(ids)
        embedded = model.embed(ids)
        check_suits(self.name, self.method)
        check_inputs(embedded, "the embedding of sequence")
        check_baseline(self.method, embedded)
        box = self.method.box()
        bounds = None if box is None else box.check(embedded, axis=-1, noun="embeddings of tokens")
        call = Call(self.name, self.method, subject, embedded, question, is_always_single=True)

        def hold(n: int) -> None:
            subject.begin(bounds)
            model.hold(ids[n : n + 1])
            if isinstance(model.model, WithMasks):
                model.model.number = n

        try:
            return call.one_by_one(hold), call.question.targets
        finally:
            model.hold(None)

    def _run_several(self, packing: Packing, question: Question) -> tuple[list[Outcome], Sequence[Target]]:
        """Explain several inputs as joined rows; one example at a time if some inputs are not differentiated."""
        method, subject = packing.adapted(self.method, self.name), self._subject_for(packing)
        rows, box = packing.packed(), method.box()
        bounds = None if box is None else packing.bounds(box)
        model = subject.model
        assert isinstance(model, FromInputs)
        with model.taking(packing):
            call = Call(self.name, method, subject, rows, question, is_always_single=packing.holds)

            def hold(n: int) -> None:
                subject.begin(bounds)
                model.hold(n)

            if packing.holds:
                return call.one_by_one(hold), call.question.targets
            subject.begin(bounds)
            return call.in_batches(), call.question.targets

    def _subject_for(self, packing: Packing) -> Subject:
        """Return the explained model as a function of joined rows, whose checks are kept for equal inputs."""
        if self._several is None or self._several[0] != packing.key:
            model = FromInputs(self._subject.model)
            self._several = packing.key, Subject(model, self._subject.readout, what="example")
        return self._several[1]

    @property
    def _from_embedding(self) -> FromEmbedding:
        assert isinstance(self._tokens.model, FromEmbedding)
        return self._tokens.model


def _model_agnostic() -> list[str]:
    """Names of the methods, other than controls, that only need a model's outputs."""
    return [name for name, entry in METHODS.items() if entry.is_model_agnostic and entry.family != "control"]
