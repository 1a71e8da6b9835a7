"""Measure every method by every metric, reusing known results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer, Target, create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.attribution._finite import check_finite_logits
from pellucid.core.checksum import checksum
from pellucid.core.errors import ConfigError, PellucidError, ShapeError
from pellucid.core.finite import check_inputs
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.engine.arrays import described
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.inputs import check_is_model, one_tensor
from pellucid.engine.model import Network, check_model, device_of, dtype_of, frozen, unwrap
from pellucid.evaluation import CONTROLS, METRICS
from pellucid.evaluation._case import KINDS, Case, Explainer, Kind, Retrain, label_of, per_place, with_options
from pellucid.evaluation._constancy import ignores_the_image
from pellucid.evaluation._evaluation import Evaluation, Scores
from pellucid.evaluation._metric import Metric

__all__ = ["Plan", "Record", "make_case", "plan", "run", "suited_to"]


@dataclass(frozen=True)
class Record:
    """Storage for finished blocks (one method by one metric); by default nothing is stored.

    A block's key covers everything that its values depend on.
    """

    find: Callable[[str], Scores | None] = lambda _: None
    keep: Callable[[str, Scores], None] = lambda *_: None
    progress: Callable[[int, str], None] = lambda *_: None


@dataclass(frozen=True, eq=False)
class Plan:
    """A validated request: the model, images, methods and metrics of an evaluation."""

    model: nn.Module
    images: Tensor
    targets: Tensor | None
    analyzers: Mapping[str, Analyzer]
    metrics: Mapping[str, Metric]
    seed: int = 0
    masks: Tensor | None = None
    training: tuple[Tensor, Tensor] | None = None
    retrain: Retrain | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks to compute."""
        return len(self.analyzers) * len(self.metrics)


def plan(
    model: Network,
    images: Tensor,
    targets: Tensor | None,
    methods: Sequence[str | Analyzer],
    metrics: Sequence[str | Metric],
    **more: Any,
) -> Plan:
    """Validate the request before any long computation, and add the controls to the methods.

    Raises `UnknownName` for unknown names, `ShapeError` for images, targets or masks of the wrong shape, `DataError`
    for an image that contains NaN or infinity, and `ConfigError` for a metric without its masks or training images, or
    for two entries with the same label.
    """
    model = unwrap(model)
    check_is_model(model)
    check_argument("evaluate", "seed", more.get("seed", 0), int)
    images, targets, more = _as_tensors(model, images, targets, more)
    for name, names in (("methods", methods), ("metrics", metrics)):
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ConfigError(f"{name} is {names!r}; expected a list, such as [{names!r}].")
    if images.ndim not in KINDS or not images.is_floating_point() or not images.numel():
        raise ShapeError(
            f"got images of shape {tuple(images.shape)} and dtype {images.dtype}; expected floats in [0, 1], (image, "
            "channel, height, width), or (example, channel, time) for signals, (example, channel, depth, height, "
            "width) for volumes, or (example, feature) for tables."
        )
    check_inputs(images)
    chosen = _by_label([(metric if isinstance(metric, Metric) else METRICS[metric]()) for metric in metrics])
    _check_kind(chosen, KINDS[images.ndim])
    _check_shapes(images, targets, more.get("masks"))
    _check_needs(chosen, more)
    if more.get("training") is not None:
        check_inputs(more["training"][0], "the training image")
    for one in methods:
        if not isinstance(one, str | Analyzer):
            raise ConfigError(f"methods holds {one!r}; expected names of methods, or analyzers of the model.")
    # The controls are always added, so one that was asked for must not appear twice.
    controls = [name for name in CONTROLS if images.ndim == 4 or name != "sobel"]  # edges need a plane
    asked = [one for one in methods if (label_of(one) if isinstance(one, Analyzer) else one) not in CONTROLS]
    # controls always take part, and come last
    analyzers = [one if isinstance(one, Analyzer) else create_analyzer(one, model) for one in (*asked, *controls)]
    labels = [label_of(analyzer) for analyzer in analyzers]
    for label, analyzer in zip(labels, analyzers, strict=True):
        if unwrap(analyzer.model) is not model:
            raise ConfigError(f"the analyzer {label} explains another model; create it for the evaluated model.")
        if analyzer.explains_other_outputs:
            raise ConfigError(
                f"the analyzer {label} explains other outputs than the model returns (output= or unwrap_softmax=), but "
                "the metrics read the model's outputs; pass a model that returns only the logits."
            )
        if not analyzer.method.is_ready:
            raise ConfigError(f"the method {label!r} must be fitted to data; pass a fitted analyzer.")
    _check_unique("method", labels)
    return Plan(model, images, targets, dict(zip(labels, analyzers, strict=True)), chosen, **more)


def _as_tensors(
    model: nn.Module, images: Any, targets: Any, more: dict[str, Any]
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Convert the arrays and lists of a request to tensors. Raises `ShapeError` for anything else."""
    masks, training = more.get("masks"), more.get("training")
    if training is not None:
        if not isinstance(training, tuple | list) or len(training) != 2:
            raise ShapeError(f"training is a {type(training).__name__}; expected a pair (images, labels).")
        training = one_tensor(training[0], model, "the training images"), one_tensor(training[1], None, "the labels")
        _check_training(*training)
    return (
        one_tensor(images, model),
        None if targets is None else one_tensor(targets, None, "targets"),
        {**more, "masks": None if masks is None else one_tensor(masks, None, "masks"), "training": training},
    )


def _check_training(images: Tensor, labels: Tensor) -> None:
    if images.ndim not in KINDS or not images.is_floating_point() or labels.shape != images.shape[:1]:
        raise ShapeError(
            f"got training images {described(images)} and labels {described(labels)}; expected floats in "
            "[0, 1], shaped like the explained images, and one class index per image."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError(f"the training labels are {labels.dtype}; expected integers.")


def _by_label(metrics: Sequence[Metric]) -> dict[str, Metric]:
    labels = [with_options(METRICS.name_of(type(metric)), metric) for metric in metrics]
    _check_unique("metric", labels)
    return dict(zip(labels, metrics, strict=True))


def _check_unique(kind: str, labels: Sequence[str]) -> None:
    if not labels:
        raise ConfigError(f"no {kind} was given; name at least one.")
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ConfigError(f"the {kind} {twice[0]!r} was given more than once; give it once.")


def _check_shapes(images: Tensor, targets: Tensor | None, masks: Tensor | None) -> None:
    if targets is not None and (targets.shape != images.shape[:1] or targets.is_floating_point()):
        raise ShapeError(
            f"got targets of shape {tuple(targets.shape)} and dtype {targets.dtype} for {len(images)} "
            "images; pass one class index per image, or None for the predicted classes."
        )
    wanted = tuple(per_place(images[:1]).shape[1:])
    if masks is not None and (masks.shape != (len(images), *wanted) or masks.dtype != torch.bool):
        raise ShapeError(
            f"got masks of shape {tuple(masks.shape)} and dtype {masks.dtype}; expected booleans, one per pixel and "
            f"none per channel: {(len(images), *wanted)}."
        )


def _check_kind(metrics: Mapping[str, Metric], kind: Kind) -> None:
    """Raise `ShapeError` for a metric that cannot measure this kind of input."""
    for label, metric in metrics.items():
        if kind not in metric.accepts:
            others = [option for option in _ALTERNATIVES if kind in _with(metric, *option)]
            way_out = (
                "omit it"
                if not others
                else "pass it as "
                + " or ".join(f"METRICS[{METRICS.name_of(type(metric))!r}]({name}={value!r})" for name, value in others)
            )
            raise ShapeError(
                f"the metric {label!r} cannot measure a {kind}, only {', '.join(sorted(metric.accepts))}: it needs "
                f"neighbors along spatial axes; {way_out}."
            )


_ALTERNATIVES: tuple[tuple[str, Any], ...] = (
    ("removal", "zero"), ("kind", "spearman"), ("perturbation", "gaussian"), ("tolerance", 0), ("noises", 2),
)  # fmt: skip
"""Options with which metrics need no neighbors."""


def suited_to(metric: Metric, axes: int) -> Metric | None:
    """Return a metric for inputs with this number of axes: as it is, or with another option; None if there is none."""
    kind = KINDS.get(axes)
    if kind is None or kind in metric.accepts:
        return metric  # inputs of no kind are refused later
    options = (option for option in _ALTERNATIVES if kind in _with(metric, *option))
    return next((replace(metric, **{name: value}) for name, value in options), None)


def _with(metric: Metric, name: str, value: object) -> frozenset[Kind]:
    """Return the kinds that a metric accepts with another option; none if it has no such option."""
    has_option = any(option.name == name for option in fields(metric))
    return replace(metric, **{name: value}).accepts if has_option else frozenset()


def _check_needs(metrics: Mapping[str, Metric], given: Mapping[str, Any]) -> None:
    for label, metric in metrics.items():
        for need in sorted(metric.needs):
            if given.get(need) is None:
                way_out = (
                    "pass masks=, or evaluate a run on a ground-truth data set"
                    if need == "masks"
                    else "pass training=(images, labels)"
                )
                raise ConfigError(f"the metric {label!r} needs {need}; {way_out}.")


def _check_outputs(case: Case) -> None:
    with torch.no_grad():
        try:
            # typed as object, because a model may return anything
            first: object = case.model(case.images[:1].clone())
        except INPUT_ERRORS as error:
            raise_input_error(error, case.model, described(case.images), case.images)
    if not isinstance(first, Tensor) or first.ndim != 2:
        came = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ShapeError(f"the model returned {came} for one image; the metrics need logits of shape (batch, class).")


def run(request: Plan, record: Record | None = None) -> Evaluation:
    """Run the evaluation; methods that do not apply or return non-finite maps are refused, with the reason."""
    record = record or Record()
    scores: dict[tuple[str, str], Scores] = {}
    refused: dict[str, str] = {}
    seconds: dict[str, float] = dict.fromkeys(request.metrics, 0.0)
    with isolated(), frozen(request.model) as model, without_warnings():
        check_model(model)
        case = make_case(request, model)
        base, done = _fingerprint(request, case), 0
        same_map: dict[str, bool | None] = {}
        for method, analyzer in request.analyzers.items():
            explainer = Explainer(analyzer, case)
            for label, metric in request.metrics.items():
                # whatever the values depend on; a changed option or weight gives another key
                key = sha256(f"{base}\n{method}\n{analyzer.method!r}\n{metric!r}".encode()).hexdigest()[:24]
                found, started = record.find(key), perf_counter()
                # a method that cannot explain the images is refused once, not once per metric
                if found is None and method not in refused:
                    found = _measure(metric, case, explainer, refused, label)
                    seconds[label] += perf_counter() - started
                    if found is not None:
                        record.keep(key, found)
                if found is not None:
                    scores[method, label] = found
                done += 1
                record.progress(done, f"{method}, {label}")
            if method not in refused and method not in CONTROLS:
                same_map[method] = ignores_the_image(case, explainer)
    # a method that was refused by every metric has no row
    kept = tuple(method for method in request.analyzers if any(one == method for one, _ in scores))
    if not kept:
        raise PellucidError(f"no method applies to this model: {'; '.join(dict.fromkeys(refused.values()))}")
    about = {label: metric.about() for label, metric in request.metrics.items()}
    found_same = (
        None
        if all(one is None for one in same_map.values())
        else tuple(method for method in kept if same_map.get(method))
    )
    return Evaluation(kept, about, scores, len(request.images), request.seed, refused, seconds, found_same)


def make_case(request: Plan, model: nn.Module) -> Case:
    """Run the frozen model on all images of a request, and check its outputs and the targets.

    Raises `ShapeError` for outputs other than logits and targets out of range, and `ModelError` or `DataError` for
    logits that are not finite.
    """
    images = request.images.detach().to(device_of(model), dtype_of(model, request.images.dtype))
    case = Case(
        model=model,
        images=images,
        # a placeholder, since the predicted classes require a forward pass of this case
        targets=torch.zeros(len(images), dtype=torch.int64, device=images.device),
        masks=None if request.masks is None else request.masks.to(images.device),
        seed=request.seed,
        training=None if request.training is None else (request.training[0].to(images), request.training[1]),
        retrain=request.retrain,
    )
    _check_outputs(case)
    case.targets = case.logits.argmax(1) if request.targets is None else request.targets.to(images.device).long()
    if int(case.targets.min()) < 0 or int(case.targets.max()) >= case.logits.shape[1]:
        raise ShapeError(
            f"targets has classes {int(case.targets.min())}…{int(case.targets.max())}, but the model has "
            f"{case.logits.shape[1]}; give indices from 0 to {case.logits.shape[1] - 1}."
        )
    check_finite_logits(case.logits, [Target(case.targets)], model=model)
    return case


def _measure(metric: Metric, case: Case, explainer: Explainer, refused: dict[str, str], label: str) -> Scores | None:
    try:
        explainer.relevance  # noqa: B018  (fails here, before any metric, if the method does not apply)
    except PellucidError as error:
        refused[explainer.label] = str(error)
        return None
    try:
        return Scores.of(metric.measure(case, explainer))
    except PellucidError as error:
        refused[f"{explainer.label}, {label}"] = str(error)
        return None


def _fingerprint(request: Plan, case: Case) -> str:
    """Return the checksum of the weights, structure, images, targets, masks, training images and seed."""
    tensors = [value for value in case.model.state_dict().values() if isinstance(value, Tensor)]
    tensors += [value for value in (case.images, case.targets, case.masks, *(case.training or ())) if value is not None]
    # the printed structure tells apart models with equal weights, such as by their activation functions
    return checksum(*tensors, start=f"{request.seed}\n{case.model}")
