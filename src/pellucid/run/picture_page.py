"""The work of `pellucid explain`: a page or a figure with explanations of images."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import Explanations, create_analyzer, without_warnings
from pellucid.config import ExplainConfig
from pellucid.core.errors import ConfigError, ModelError, UnsupportedOperation, WriteError
from pellucid.core.files import replace_file
from pellucid.core.isolation import isolated
from pellucid.core.listing import parse_names
from pellucid.core.opening import opens_in_browser
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.terminal import print_line, track
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.model import frozen
from pellucid.hooks._class_maps import ClassMaps, explain_classes, stored_maps
from pellucid.hooks._methods import FAST_OPTIONS, explain_each
from pellucid.models._class_names import read_class_names
from pellucid.models._library import LoadedModel
from pellucid.models._preprocessing import choose_preprocessing
from pellucid.report._explain_page import explain_page
from pellucid.run.explaining import as_target, class_names_of, explain_given
from pellucid.run.given import Given, Steps, receive
from pellucid.run.session import choose_device
from pellucid.storage.models import load_model
from pellucid.training.distributed import World

__all__ = ["explain_pictures"]

PAGE_METHODS = ("lrp.epsilon_plus_flat", "lrp.epsilon", "gradient", "grad_cam")
"""Default methods of a page; each takes one backward pass per class."""
CLASSES = 4
"""Number of classes per image on a page: the target, the predicted class and the most probable others."""
LIMITS = (4_000_000, 512)
"""Maximum number of values of all maps on a page, and maximum length of the longer side of its images."""
IMAGES_PER_PASS = 32


def explain_pictures(config: ExplainConfig) -> int:
    """Explain images, write the page or figure, and return the exit code."""
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    loaded, steps, given, names, notes = _prepared(config)
    logits = _logits(given)
    target = _target(config.target, names, logits.shape[1])
    is_page = config.page.suffix.lower() == ".html"
    methods = parse_names(config.methods, groups={"default": PAGE_METHODS if is_page else ()})
    if is_page:
        arrays, record = _maps(given, logits, target, methods)
        content = explain_page(
            arrays,
            {**record, "titles": list(given.display.titles)},
            title=_title(given, loaded),
            facts=_facts(given, loaded, steps, logits.shape[1]),
            notes=[note if note.endswith(".") else f"{note}." for note in notes],
            classes=names or [str(label) for label in range(logits.shape[1])],
        )
        try:
            replace_file(config.page, content)
        except OSError as error:
            raise WriteError(f"{config.out} cannot be written: {error.strerror or error}.") from error
    else:
        with without_warnings():  # the figure already states the sums
            explained = explain_given(given, methods or None, [target], names, {})
        Explanations(explained).save(config.page, rows=max(8, len(methods)))
        for note in explained[0].notes:
            print_line(note)
    print_line(str(config.out))
    if config.open and not opens_in_browser(config.page.resolve().as_uri()):
        print_line("No browser could be started; open the file above yourself.")
    return 0


def _prepared(
    config: ExplainConfig,
) -> tuple[LoadedModel, Steps, Given, tuple[str, ...] | None, list[str]]:
    """Load the model and the images. Raises the errors of both before anything is computed."""
    network = config.network
    chosen = None if network.class_names is None else read_class_names(network.class_names)
    size = network.crop or config.image_size
    loaded = load_model(
        config.model,
        weights=network.weights,
        image_shape=None if size is None else (3, size, size),
        classes=None if chosen is None else len(chosen),
        trust=config.trust,
    )
    loaded.model.to(choose_device(config.device, World()))
    mean, std = network.normalization
    steps = choose_preprocessing(
        loaded.model, loaded.preprocessing, mean=mean, std=std, image_size=config.image_size, crop=network.crop
    )
    given = receive(loaded.model, list(config.images), steps)
    names, remarks = class_names_of(loaded.model, given, chosen)
    notes = [*given.notes, *remarks, *([loaded.notice] if loaded.notice else [])]
    return loaded, steps, given, names, notes


def _logits(given: Given) -> Tensor:
    """Return the logits of all images, on the CPU. Raises `ModelError` for models with other outputs."""
    with isolated(), frozen(given.model) as model, torch.no_grad():
        try:
            parts = [model(part) for part in given.inputs.split(IMAGES_PER_PASS)]
        except INPUT_ERRORS as error:
            raise_input_error(error, given.model, str(tuple(given.inputs.shape)), given.inputs)
    if not all(isinstance(part, Tensor) and part.ndim == 2 for part in parts):
        shape = tuple(parts[0].shape) if isinstance(parts[0], Tensor) else type(parts[0]).__name__
        raise ModelError(f"the model returns {shape}; `pellucid explain` needs one logit per class, (batch, class).")
    return torch.cat(parts).float().cpu()


def _target(text: str | None, names: tuple[str, ...] | None, count: int) -> int | None:
    """Return the class that `--target` names. Raises `ConfigError` or `UnknownName` for an unknown class."""
    if text is None or (names is not None and text in names):
        return None if text is None else int(as_target(text, names))
    if text.isdecimal():
        if int(text) >= count:
            raise ConfigError(
                f"--target is {text}, but the model has {count} classes; pass an index from 0 to {count - 1}."
            )
        return int(text)
    return int(as_target(text, names))


def _maps(
    given: Given, logits: Tensor, target: int | None, methods: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compute and pack the maps of all images by all methods, for the target and the most probable classes."""
    count = logits.shape[1]
    likeliest = logits.argsort(dim=1, descending=True, stable=True).tolist()
    first = [] if target is None else [target]
    table = np.array([list(dict.fromkeys([*first, *row]))[: min(CLASSES, count)] for row in likeliest])
    is_all = count <= CLASSES
    table = np.tile(np.arange(count), (len(table), 1)) if is_all else table

    with track("explaining", total=len(methods)) as tracker:

        def explain(name: str) -> ClassMaps:
            tracker.update(methods.index(name), name)
            analyzer = create_analyzer(name, given.model, **FAST_OPTIONS.get(name, {}))
            return explain_classes(analyzer, given.inputs, table, is_all=is_all)

        explained, refused = explain_each(methods, explain)
    if not explained:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise UnsupportedOperation(f"no method applies to this model. {reasons}")
    arrays, record = stored_maps(explained, _shown(given), table, logits, limits=LIMITS)
    return arrays, {
        **record,
        "indices": list(range(len(logits))),
        "predictions": logits.argmax(1).tolist(),
        "targets": None if target is None else [target] * len(logits),
        "classes": table.tolist(),
        "options": {name: FAST_OPTIONS[name] for name in explained if name in FAST_OPTIONS},
        "refused": refused,
    }


def _shown(given: Given) -> np.ndarray:
    """Return the images in [0, 1]."""
    images = given.inputs.detach().float().cpu()
    low, high = given.display.scale or (float(images.min()), float(images.max()))
    return ((images - low) / ((high - low) or 1.0)).clamp(0, 1).numpy()


def _title(given: Given, loaded: LoadedModel) -> str:
    titles = given.display.titles
    subject = titles[0] if len(titles) == 1 else f"{len(titles)} pictures"
    return f"{subject}: predictions of {loaded.name}, explained"


def _facts(given: Given, loaded: LoadedModel, steps: Steps, classes: int) -> list[tuple[str, str]]:
    facts: Mapping[str, str] = {
        "model": loaded.name,
        "weights": loaded.weights or "",
        "classes": f"{classes:,}",
        "images": f"{len(given.inputs)}; {'×'.join(map(str, given.inputs.shape[1:]))}",
        "preprocessing": _described(steps),
    }
    return [(name, value) for name, value in facts.items() if value]


def _described(steps: Steps) -> str:
    """Describe the preprocessing in one line."""
    if not isinstance(steps, Preprocessing):
        return getattr(steps, "__name__", type(steps).__name__)
    parts = []
    if steps.resize is not None:
        parts.append(
            f"resized to {steps.resize if isinstance(steps.resize, int) else '×'.join(map(str, steps.resize))}"
        )
    if steps.crop is not None:
        parts.append(f"cropped to {steps.crop[0]}×{steps.crop[1]}")
    if steps.mean is not None and steps.std is not None:
        parts.append(
            f"mean {', '.join(f'{v:.4g}' for v in steps.mean)}, std {', '.join(f'{v:.4g}' for v in steps.std)}"
        )
    return "; ".join(parts)
