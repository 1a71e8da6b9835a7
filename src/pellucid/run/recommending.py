"""`pellucid.recommend`: choose an attribution method for a model and its images by measurement, within a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.attribution import Analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.attribution._function import ArrayFunction
from pellucid.core.errors import ConfigError, ShapeError, UnknownName
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.seeding import generator
from pellucid.core.terminal import track
from pellucid.engine.inputs import one_tensor
from pellucid.engine.model import Network, check_model, frozen
from pellucid.evaluation import DEFAULT_METHODS, METRICS, Metric
from pellucid.evaluation._passes import counted
from pellucid.evaluation._race import FEWEST_IMAGES, balanced, race
from pellucid.evaluation._recommendation import FAITHFULNESS
from pellucid.evaluation._recommended import Recommended, concluded
from pellucid.evaluation._run import Plan, make_case, plan, suited_to

__all__ = ["BUDGETS", "RACE_METRICS", "recommend"]

RACE_METRICS = ("selectivity", "insertion", "sensitivity_n", "random_logit", "parameter_randomisation")
"""The default metrics: three faithfulness metrics that fail in different ways, and two checks. Of the former, one
removes patches, the most relevant first; one adds pixels to a blurred image; one removes random sets."""
FUNCTION_METHODS: Mapping[bool, tuple[str, ...]] = {
    True: ("occlusion", "rise", "shapley_sampling", "kernel_shap", "lime"),
    False: ("feature_ablation", "shapley_sampling", "kernel_shap", "lime"),
}
"""The default methods for a function of arrays: those that only need outputs, for images and for tables."""
BUDGETS: Mapping[str, int] = {"small": 60_000, "default": 240_000, "large": 2_400_000}
"""Forward passes of one image, by name."""
FEWEST_PASSES = 1000
"""Smallest budget; a single image takes hundreds of passes."""
PREDICTION_SHARE = 20
"""At most this fraction of the budget, 1/20, is spent on the predictions from which images are chosen."""


def recommend(
    model: Network,
    images: Any,
    labels: Tensor | None = None,
    *,
    methods: Sequence[str | Analyzer] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    budget: str | int = "default",
    seed: int = 0,
    target: int | Tensor | None = None,
) -> Recommended:
    """Choose the attribution method to use for this model and these images, by measured faithfulness.

    The methods race: all of them are measured on a few images, those whose mean rank over the faithfulness metrics is
    significantly worse than that of the best one are dropped, and the rest continue on more images until one remains,
    or the budget or the images are used up. All methods see the same images and random draws. The recommended method is
    that of `Evaluation.recommendation`: it beats every control (random, constant, edges, the image itself), and its
    maps depend on the image, the class and the weights. If no method qualifies, or the budget is too small to tell,
    `.method` is None and `.reason` says why.

    Args:
        model: a classifier from images to logits, (batch, class) with at least two classes. It is not modified.
        images: (image, channel, height, width) floats in [0, 1], unseen in training if possible; also signals, volumes
            and tables.
        labels: (image,) true classes. The images are drawn evenly over them; by default, over the predicted classes.
        methods: method names, or analyzers of this model if a method needs options or was fitted; by default, one or
            two of each family, and for a `pellucid.function` those that only need outputs.
        metrics: metric names or configured metrics, at least one of them a faithfulness metric. The others are checks,
            measured on the first images only. Those of the default are configured for the kind of input.
        budget: largest number of forward passes of one image: a number, or `"small"` (60,000), `"default"` (240,000)
            or `"large"` (2,400,000). Backward passes are not counted. Adaptive methods may exceed it slightly.
        seed: random seed.
        target: the class to explain, or one per image; by default, the predicted class of each image.

    Raises `UnknownName` for unknown names, `ShapeError` for several inputs, token ids or tensors of the wrong shape,
    and `ConfigError` for invalid settings, all before any computation.

    Source: Birattari et al., "A racing algorithm for configuring metaheuristics", 2002 (F-race).

    >>> from torch import nn
    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> result = recommend(linear, torch.rand(4, 1, 4, 4), methods=["gradient"], budget=20_000)
    >>> result.method is None, result.evaluation.images
    (True, 4)
    """
    passes_allowed = _passes_of(budget)
    request = _request(model, images, methods, metrics, seed, target)
    classes = None if labels is None else _checked_labels(labels, len(request.images))
    with isolated(), counted(request.model) as passes, track("recommending", passes_allowed) as bar, without_warnings():
        request = _ordered(request, classes, max(FEWEST_IMAGES, passes_allowed // PREDICTION_SHARE))
        finish = race(request, passes, passes_allowed, lambda done: bar.update(min(done, passes_allowed)))
    return concluded(finish, request.analyzers, passes.total, passes_allowed)


def _passes_of(budget: str | int) -> int:
    """Return the number of passes of a budget."""
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise UnknownName("budget", budget, BUDGETS)
        return BUDGETS[budget]
    check_argument("recommend", "budget", budget, int)
    if budget < FEWEST_PASSES:
        raise ConfigError(
            f"budget is {budget} forward passes; expected at least {FEWEST_PASSES:,}, or one of: {', '.join(BUDGETS)}."
        )
    return budget


def _request(
    model: Network,
    images: Any,
    methods: Sequence[str | Analyzer] | None,
    metrics: Sequence[str | Metric] | None,
    seed: int,
    target: int | Tensor | None,
) -> Plan:
    """Validate the request and return it as the plan of an evaluation."""
    if isinstance(images, tuple | Mapping):
        raise ShapeError(
            f"images is a {type(images).__name__}, for a model with several inputs; the metrics change the pixels of "
            "one input, so pass a single tensor of images."
        )
    images = one_tensor(images, model)
    if not images.is_floating_point() and images.ndim == 2:
        raise ShapeError(
            f"images has shape {tuple(images.shape)} and dtype {images.dtype}, which are token ids; the metrics change "
            "pixels, so pass floats of shape (image, channel, height, width)."
        )
    if methods is not None and not len(methods):
        raise ConfigError("methods is empty; pass at least one method, or None for the default ones.")
    check_argument("recommend", "target", target, int | Tensor | None)
    targets = torch.full((len(images),), target, device="cpu") if isinstance(target, int) else target
    request = plan(
        model,
        images,
        targets,
        _default_methods(model, images) if methods is None else methods,
        _default_metrics(model, images) if metrics is None else metrics,
        seed=seed,
    )
    if not any(METRICS.name_of(type(metric)) in FAITHFULNESS for metric in request.metrics.values()):
        raise ConfigError(
            f"metrics is {list(request.metrics)}, and none of them measures faithfulness; add one of: "
            f"{', '.join(name for name in FAITHFULNESS if name != 'roar')}."
        )
    return request


def _default_methods(model: Network, images: Tensor) -> Sequence[str]:
    return FUNCTION_METHODS[images.ndim > 2] if isinstance(model, ArrayFunction) else DEFAULT_METHODS


def _default_metrics(model: Network, images: Tensor) -> list[Metric]:
    # a function has no weights, so no map could pass the check that it depends on them
    names = [name for name in RACE_METRICS if name != "parameter_randomisation" or not isinstance(model, ArrayFunction)]
    suited = [suited_to(METRICS[name](), images.ndim) for name in names]
    return [metric for metric in suited if metric is not None]


def _checked_labels(labels: Any, count: int) -> Tensor:
    found = one_tensor(labels, None, "labels")
    if found.shape != (count,) or found.is_floating_point() or found.dtype == torch.bool:
        raise ShapeError(
            f"labels has shape {tuple(found.shape)} and dtype {found.dtype} for {count} images; pass one class index "
            "per image."
        )
    return found


def _ordered(request: Plan, classes: Tensor | None, most: int) -> Plan:
    """Return the request with its images in the order of use: a random order in which the classes take turns.

    At most `most` images, drawn at random, are kept. Without the true classes, the predicted ones take turns.
    """
    draws = generator(request.seed, "recommend", "images")
    kept = torch.randperm(len(request.images), generator=draws, device="cpu")[:most]
    images = request.images[kept.to(request.images.device)]
    predicted = _predicted(replace(request, images=images, targets=_at(request.targets, kept)))
    own = predicted if classes is None else classes.cpu()[kept]
    order = balanced(own, request.seed)
    chosen = kept[order]
    return replace(request, images=images[order.to(images.device)], targets=_at(request.targets, chosen))


def _at(values: Tensor | None, positions: Tensor) -> Tensor | None:
    return None if values is None else values.cpu()[positions]


def _predicted(request: Plan) -> Tensor:
    """Return the (image,) predicted classes, and check the model's outputs on all images."""
    with frozen(request.model) as model:
        check_model(model)
        logits = make_case(request, model).logits
    if logits.shape[1] < 2:
        raise ShapeError(
            "the model has a single output; recommend compares maps of several classes. Wrap a binary classifier so "
            "that it returns two logits, (−x, x)."
        )
    return logits.argmax(1).cpu()
