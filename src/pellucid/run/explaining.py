"""`pellucid.explain`: one call from an image file to its explanation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer, Explanation, Explanations, create_analyzer
from pellucid.core.errors import ConfigError, ModelError, PellucidError, UnknownName, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.origin import origin_of
from pellucid.core.preprocessing import Preprocessing
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.inputs import check_is_model
from pellucid.engine.model import frozen, unwrap
from pellucid.engine.wrapping import Network
from pellucid.models._preprocessing import choose_preprocessing, find_classes
from pellucid.run.given import Given, receive

__all__ = ["DEFAULTS", "as_target", "class_names_of", "explain", "explain_given"]

DEFAULTS = ("lrp.epsilon_plus_flat", "lrp.epsilon", "integrated_gradients", "gradient", "occlusion")
"""Methods that are tried in turn by default, until one applies to the model."""


def explain(
    model: Network,
    images: Any,
    method: str | Sequence[str] | None = None,
    *,
    target: Any = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    preprocess: Any = None,
    tokens: Sequence[Sequence[str]] | None = None,
    **options: Any,
) -> Explanation | Explanations:
    """Explain a model's outputs for images.

    Notebooks display the result as a figure. `show()` opens it, `save("why.png")` writes it, and `figure()` returns it
    for matplotlib. The model is
    neither changed nor copied.

    Args:
        model: any module from images to logits, or to an output with the attribute `logits`. Signals, volumes, token
            ids and several inputs (as a tuple or a dict) work, too.
        images: a path, a PIL image, a NumPy array or a tensor; one, a batch, or a list of them. Files and PIL images
            are preprocessed. Arrays and tensors are passed to the model as they are; a missing batch axis is added.
        method: name of an attribution method, see `pellucid.methods()`. Default: "lrp.epsilon_plus_flat", or another
            method if that does not apply to the model, as a note then says. A list gives one row per method; those that
            don't apply are named in the notes.
        target: what to explain. None: the predicted class. An index or a name: that class. A tensor: one index per
            image. A list: one row for each of its targets. Also "all", `Contrast(a, b)`, or a function of the outputs,
            as for `Analyzer.analyze`.
        classes: class names by index. Default: those from the model's library.
        mean: with `std`, the normalization of the model's input: one value per channel, or one for all. Files and PIL
            images are normalized with it. For tensors, it is only undone, so that the original images are shown and
            relevance is per displayed pixel. Default: that of the model, if it is known.
        std: see `mean`.
        preprocess: preprocessing of files and PIL images: a member of torchvision's weights enums, their transforms,
            an image processor of transformers, or a function from a PIL image to the model's input.
        tokens: the text of each token, by sequence, for a model of token ids.
        options: options of the method, and `output`, `unwrap_softmax` and `embedding` of `create_analyzer`.

    Returns an `Explanation`, or `Explanations` for a list of methods or targets.

    Raises `DataError` for images that cannot be read, `ShapeError` for inputs that do not fit the model, `ConfigError`
    and `UnknownName` for invalid choices, and `UnsupportedOperation` if no method applies.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    >>> why = explain(model, torch.rand(8, 8), classes=["cat", "dog"], target="dog")
    >>> why.method, why.target.tolist(), why.relevance.shape
    ('lrp.epsilon_plus_flat', [1], torch.Size([1, 1, 8, 8]))
    """
    inside = unwrap(model)
    check_is_model(inside)
    steps = choose_preprocessing(inside, mean=mean, std=std, preprocess=preprocess)
    origin = origin_of(inside)
    if origin is not None and isinstance(steps, Preprocessing) and steps.resize is None and steps.crop is None:
        steps = replace(steps, resize=origin.image_shape[1:])  # models of a run take images of one size
    is_explicit = mean is not None or preprocess is not None
    reads_logits = options.get("output") is None
    given = receive(inside, images, steps, is_explicit=is_explicit, reads_logits=reads_logits)
    if tokens is not None:
        given = replace(given, display=replace(given.display, tokens=_checked_tokens(tokens, given.inputs)))
    names, notes = class_names_of(inside, given, classes, reads_logits=reads_logits)
    given = replace(given, notes=(*given.notes, *notes))
    targets = target if isinstance(target, list) else [target]
    if not targets:
        raise ConfigError("target is an empty list; pass at least one target, or None for the predicted class.")
    resolved = [as_target(one, names) for one in targets]
    explained = explain_given(given, method, resolved, names, options)
    is_list = isinstance(target, list) or not isinstance(method, str | None)
    return Explanations(explained) if is_list else explained[0]


def explain_given(
    given: Given,
    method: str | Sequence[str] | None,
    targets: Sequence[Any],
    classes: tuple[str, ...] | None,
    options: dict[str, Any],
) -> list[Explanation]:
    """Explain inputs by every method for every target.

    Methods of a list that do not apply are named in the notes. Raises the error of the first if none applies.
    """
    chosen = DEFAULTS if method is None else (method,) if isinstance(method, str) else tuple(method)
    if not chosen:
        raise ConfigError("method is an empty list; pass at least one name, or None for the default.")
    # the user's options belong to the method that they were passed for
    tried = chosen[:1] if method is None and (options.keys() - _CALL) else chosen
    analyzers = [create_analyzer(name, given.model, **options) for name in tried]
    explained: list[Explanation] = []
    refused: dict[str, PellucidError] = {}
    for analyzer in analyzers:
        try:
            explained += [_explained(analyzer, given, target, classes) for target in targets]
        except (UnsupportedOperation, ModelError, ConfigError) as error:
            # no fallback for a single method, or for an argument that is invalid for every method
            if len(analyzers) == 1 or (method is None and isinstance(error, ConfigError)):
                raise
            refused[analyzer.name] = error
        if explained and method is None:
            break
    if not explained:
        raise next(iter(refused.values()))
    used = f", so {explained[0].method} is used" if method is None else ""
    notes = [f"{note}{used}" for note in _refusals(refused)]
    return [replace(one, notes=(*given.notes, *notes, *one.notes)) for one in explained]


def _refusals(refused: dict[str, PellucidError]) -> list[str]:
    """Return one note per reason, with the methods that do not apply for that reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(str(why).rstrip("."), []).append(name)
    return [
        f"{' and '.join(names)} {'does' if len(names) == 1 else 'do'} not apply ({why})"
        for why, names in by_reason.items()
    ]


_CALL = {"output", "unwrap_softmax", "embedding"}
"""Options of every method."""


def _explained(analyzer: Analyzer, given: Given, target: Any, classes: tuple[str, ...] | None) -> Explanation:
    explanation = analyzer.explain(given.inputs, target)
    return replace(explanation, classes=classes, display=given.display)


def as_target(target: Any, classes: tuple[str, ...] | None) -> Any:
    """Return the index of a class name; any other target is returned unchanged.

    Raises `UnknownName` for an unknown name, and `ConfigError` if names are unknown.
    """
    if not isinstance(target, str) or target == "all":
        return target
    if classes is None:
        raise ConfigError(f"target is {target!r}, but the class names are unknown; pass classes=, or an index.")
    if target not in classes:
        raise UnknownName("class", target, classes)
    if classes.count(target) > 1:
        places = [index for index, name in enumerate(classes) if name == target]
        raise ConfigError(f"target is {target!r}, the name of the classes {places}; pass an index.")
    return classes.index(target)


def class_names_of(
    model: nn.Module, given: Given, classes: Sequence[str] | None, *, reads_logits: bool = True
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the class names, and notes on them. Raises `ConfigError` if the user's names do not fit the outputs.

    `reads_logits` is False if another output than the logits is explained.
    """
    if classes is None:
        found = find_classes(model)
        if found is None or not reads_logits:
            return None, []
        count = _output_count(given)
        if count in (None, len(found)):
            return found, []
        return None, [f"The model has {count} outputs, so the {len(found)} class names of its library are not used"]
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"classes is {classes!r}; expected a list of names.")
    names = tuple(classes)
    count = _output_count(given) if reads_logits else None
    if count is not None and count != len(names):
        raise ConfigError(f"got {len(names)} class names for a model with {count} outputs; pass one name per output.")
    return names, []


def _output_count(given: Given) -> int | None:
    """Return the number of logits, by a forward pass of the first image; None if it is not known in advance."""
    inputs = given.inputs
    if not isinstance(inputs, Tensor) or not len(inputs):
        return None
    with isolated(), frozen(given.model) as model, torch.no_grad():
        try:
            outputs = model(inputs[:1].clone())
        except INPUT_ERRORS as error:
            raise_input_error(error, given.model, str(tuple(inputs.shape)), inputs)
    return outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim == 2 else None


def _checked_tokens(tokens: Sequence[Sequence[str]], inputs: Any) -> tuple[tuple[str, ...], ...]:
    """Return the text of the tokens. Raises `ConfigError` unless there is one per id."""
    named = tuple(tuple(map(str, sequence)) for sequence in tokens)
    if isinstance(inputs, Tensor) and inputs.ndim == 2 and not inputs.is_floating_point():
        if [len(sequence) for sequence in named] == [inputs.shape[1]] * len(inputs):
            return named
    elif not isinstance(inputs, Tensor | np.ndarray):
        return named
    raise ConfigError(
        f"tokens has {len(named)} sequences of {[len(sequence) for sequence in named][:8]} tokens; expected one text "
        "per token id, (batch, token)."
    )
