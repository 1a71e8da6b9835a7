"""A job: model, images and methods, checked on one image before anything is written, and the layout of its store."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer
from pellucid.attribution._together import explain_together, images_per_pass
from pellucid.core.checksum import checksum, fingerprint
from pellucid.core.errors import ConfigError, DataError, ModelError, PellucidError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.text import check_text
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.model import device_of, dtype_of, frozen
from pellucid.jacobians import jacobian_report
from pellucid.jacobians._native.decision import decided
from pellucid.jacobians._native.job import expected_images
from pellucid.run.explaining import DEFAULTS
from pellucid.run.record import versions
from pellucid.run.to_disk.embeddings import Embedder
from pellucid.run.to_disk.request import ALL, LABEL, Request, analyzers_for, options_of, resolve_target
from pellucid.run.to_disk.source import Source, floats_of
from pellucid.storage.sharded import Layout, Variable

__all__ = ["Job", "prepare"]

SHARD_BYTES = 1 << 25
"""Approximate size of a shard before compression, by default."""
MOST_IMAGES, USUAL_SHARDS, LEAST_IMAGES = 1024, 64, 32
"""A shard holds at most `MOST_IMAGES` images. A small data set is divided into about `USUAL_SHARDS` shards, so that
several processes can share it and an interruption costs little, but not into shards of fewer than `LEAST_IMAGES`."""
IMAGES_AT_ONCE = 256
"""Images per forward pass without methods."""
AXES = ("channel", "height", "width")


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that a process needs to compute any shard, and that processes must agree on."""

    source: Source
    model: nn.Module
    """The explained function: from displayed images to logits."""
    analyzers: Mapping[str, Analyzer]
    target: int | str
    classes: tuple[str, ...]
    batch: int
    """Images per pass. It affects the last bits of the results, so it does not depend on the process."""
    embedder: Embedder | None
    jacobian: bool
    kernel: str | None
    """"native" or "generic": how Jacobians are computed; None without them."""
    dtype: str
    layout: Layout
    passes: float
    """Forward passes per image, as counted on one image."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return device_of(self.model)

    def floats(self, reads: Sequence[Any]) -> Tensor:
        """Return readable images as a batch for the model."""
        return floats_of(reads, dtype_of(self.model), self.device)


@dataclass(frozen=True, eq=False)
class _Probe:
    """Results on the first readable image, which determine the layout of the store."""

    logits: Tensor
    analyzers: dict[str, Analyzer]
    evaluations: float
    embedder: Embedder | None
    jacobian_row: tuple[int, ...] | None
    kernel: str | None


def prepare(
    source: Source,
    model: nn.Module,
    request: Request,
    names: Sequence[str] | None,
    about: Mapping[str, Any],
    existing: Mapping[str, Any] | None,
) -> Job:
    """Check every method on the first readable image, and lay out the store; writes nothing.

    `about` describes the model and its preprocessing. `existing` are the settings of a store that is to be continued,
    whose choice of the native kernel is followed.

    Raises the error of a method that does not apply, `ModelError` for a model without logits (batch, class), and
    `ConfigError` for choices that do not fit the model or the data.
    """
    source, image, logits = _first_explained(source, model)
    classes = _class_names(source, names, logits.shape[1])
    target = resolve_target(request.target, classes, len(classes))
    if target == LABEL and not source.has_labels:
        raise ConfigError(
            f"target is 'label', but {source.images.name} has no labels; explain the predicted class, or a named one."
        )
    probe = _probe(model, image, logits, request, target, source.count, (existing or {}).get("jacobian_kernel"))
    variables = _variables(probe, request, target, source.image_shape, classes)
    batch = _batch(probe, image)
    shard = request.shard or _shard(variables, source.count, batch)
    settings = {**about, **_settings(source, model, request, target, classes, probe), "batch": batch}
    attributes = {
        "content": "pellucid explanations",
        "format": 1,
        "images": source.count,
        "shard": shard,
        "settings": settings,
        # xarray reads these variables as coordinates
        "coordinates": " ".join(("key", "label", "prediction", *(() if target == ALL else ("target",)))),
        "provenance": {
            "data": source.images.name,
            "title": source.images.title,
            "machine": platform.machine(),
            "versions": versions(),
        },
    }
    layout = Layout(source.count, shard, tuple(variables), attributes)
    passes = 1 + probe.evaluations
    return Job(
        source, model, probe.analyzers, target, classes, min(batch, shard), probe.embedder, request.jacobian,
        probe.kernel, request.dtype, layout, passes,
    )  # fmt: skip


def _class_names(source: Source, names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return one name per output. Raises `ConfigError` or `DataError` if names or labels do not fit the outputs."""
    if names is not None and len(names) != count:
        raise ConfigError(f"got {len(names)} class names for a model with {count} outputs; pass one name per output.")
    classes = tuple(names or map(str, range(count)))
    for name in classes:
        check_text(name, "a class name")
    known = source.images.labels
    if known is not None and len(known) and int(known.max()) >= len(source.images.classes or classes):
        raise DataError(
            f"{source.images.name} has labels up to {int(known.max())}, but the model has {count} outputs; expected "
            f"labels from 0 to {count - 1}."
        )
    return classes


def _settings(
    source: Source, model: nn.Module, request: Request, target: int | str, classes: tuple[str, ...], probe: _Probe
) -> dict[str, Any]:
    """Return what determines the results, besides the preprocessing and the images per pass."""
    return {
        "data": source.fingerprint(),
        "methods": {name: options_of(one) for name, one in probe.analyzers.items()},
        "target": target if isinstance(target, str) else {"class": target, "name": classes[target]},
        "embedding": None if probe.embedder is None else probe.embedder.layer,
        "jacobian": request.jacobian,
        "jacobian_kernel": probe.kernel,
        "dtype": request.dtype,
        "threads": torch.get_num_threads(),
        "device": device_of(model).type,
        "weights": fingerprint(model),
        "structure": _structure(model),
        "classes": sha256("\0".join(classes).encode()).hexdigest()[:16],
        "labels": source.matched.mapping and list(source.matched.mapping),
    }


def _first_explained(source: Source, model: nn.Module) -> tuple[Source, Tensor, Tensor]:
    """Return the source with the first image that has finite logits, with that image and its logits."""
    found: tuple[Source, Tensor, Tensor] | None = None
    for read in source.candidates():
        image = floats_of([read], dtype_of(model), device_of(model))
        logits = _logits(model, image)
        found = found or (source, image, logits)
        if bool(logits.isfinite().any()) and not bool(logits.isnan().any()):
            return replace(source, first=read), image, logits
    assert found is not None
    return found


def _structure(model: nn.Module) -> str:
    """Return a checksum of the modules and of the buffers that are not floats, which `fingerprint` leaves out."""
    others = [one for one in model.state_dict().values() if isinstance(one, Tensor) and not one.is_floating_point()]
    # objects without a description of their own are described by their address
    return checksum(*others, start=re.sub(r" at 0x[0-9a-f]+", "", repr(model)))[:16]


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    """Return the logits of one image. Raises `ModelError` for models with other outputs."""
    with isolated(), frozen(model) as inside, torch.no_grad():
        try:
            outputs = inside(image.clone())
        except INPUT_ERRORS as error:
            raise_input_error(error, model, str(tuple(image.shape)), image)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 1:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            f"the model returns {got} for images of shape {tuple(image.shape)}; it must return one logit per class, "
            "(batch, class)."
        )
    return outputs


def _probe(
    model: nn.Module,
    image: Tensor,
    logits: Tensor,
    request: Request,
    target: int | str,
    images: int,
    kernel: str | None,
) -> _Probe:
    """Try everything on one image. Raises the error of a method that does not apply, with its name."""
    wanted: Any = "all" if target == ALL else target if isinstance(target, int) else logits.argmax(1)
    analyzers, evaluations = _applicable(model, image, request, wanted)
    embedder = Embedder.of(model, image, request.embedding_layer) if request.wants_embeddings else None
    if not analyzers and not request.jacobian and embedder is None:
        raise ConfigError("nothing to compute: methods is empty, without embeddings and without the Jacobian.")
    row = None
    if request.jacobian:
        # whether the kernel pays off depends on the whole job; a store that was begun has decided
        with expected_images(images), decided(None if kernel is None else lambda: kernel == "native"):
            report = jacobian_report(model, image)
        row = tuple(report.jacobian.shape[1:])
        kernel = "native" if "native" in report.method.split("+") else "generic"
    return _Probe(logits, analyzers, evaluations, embedder, row, kernel if request.jacobian else None)


def _applicable(model: nn.Module, image: Tensor, request: Request, target: Any) -> tuple[dict[str, Analyzer], float]:
    """Return the methods to use, and their forward passes per image."""
    is_default = request.methods is None
    if is_default and request.jacobian:
        return {}, 0.0
    refused: dict[str, PellucidError] = {}
    used: dict[str, Analyzer] = {}
    evaluations = 0.0
    for name, analyzer in analyzers_for(model, DEFAULTS if is_default else request.listed).items():
        try:
            explained = explain_together([analyzer], image, target)[1][0]
        except PellucidError as error:
            if not is_default:
                error.args = (f"{name} cannot explain this model and these images: {error}",)
                raise
            refused[name] = error
            continue
        used[name] = analyzer
        evaluations += float(explained.evaluations.sum())
        if is_default:
            break
    if is_default and not used:
        reasons = "; ".join(f"{name}: {error}" for name, error in refused.items())
        raise UnsupportedOperation(f"no default method applies to this model. {reasons}")
    return used, evaluations


def _batch(probe: _Probe, image: Tensor) -> int:
    """Return the number of images per pass."""
    if probe.analyzers:
        return images_per_pass(list(probe.analyzers.values()), image)
    return max(1, min(IMAGES_AT_ONCE, IMAGES_AT_ONCE * 3 * 64 * 64 // image[0].numel()))


def _shard(variables: Sequence[Variable], images: int, batch: int) -> int:
    """Return the number of images per shard: whole batches where possible."""
    size = sum(one.row_bytes for one in variables if one.values is None)
    share = max(LEAST_IMAGES, -(-images // USUAL_SHARDS))
    count = max(1, min(SHARD_BYTES // max(1, size), MOST_IMAGES, share, images))
    return count if count <= batch else count // batch * batch


def _variables(
    probe: _Probe, request: Request, target: int | str, shape: tuple[int, ...], classes: Sequence[str]
) -> list[Variable]:
    """Return the arrays of the store, in the order in which they are written."""
    names, count = tuple(probe.analyzers), len(classes)
    every = ("class",) if target == ALL else ()
    each = (count,) if every else ()
    maps = ("image", "attribution", *every)
    rows = (len(names), *each)
    found = [
        Variable("key", "str", attributes={"long_name": "identifier of the image in its data set"}),
        Variable("error", "str", attributes={"long_name": "why the image has no results; empty if it has"}),
        Variable("label", "int64", attributes={"long_name": "true class; -1 if unknown"}),
        Variable("prediction", "int64", attributes={"long_name": "class with the largest logit; -1 if there is none"}),
        Variable("logits", "float32", ("image", "class"), (count,)),
        Variable("class", "str", ("class",), values=np.array(classes, dtype=object)),
    ]
    if not every:
        found.append(Variable("target", "int64", attributes={"long_name": "explained class; -1 if there is none"}))
    if probe.embedder is not None:
        found.append(
            Variable("embedding", "float32", ("image", "feature"), (probe.embedder.features,),
                     attributes={"long_name": f"input of {probe.embedder.layer}"})
        )  # fmt: skip
    if names:
        units = {name: _unit(probe.analyzers[name]) for name in names}
        found += [
            Variable("attribution", "str", ("attribution",), values=np.array(names, dtype=object)),
            Variable("relevance", request.dtype, (*maps, *AXES), (*rows, *shape), 1, {"units": units}),
            Variable("expected", "float32", maps, rows, attributes={"long_name": "sum that the method promises"}),
            Variable("residual", "float32", maps, rows, attributes={"long_name": "sum of the map minus `expected`"}),
        ]
        if request.dtype == "float16":
            meaning = "largest rounding error of the map, relative to its largest absolute value"
            found.append(Variable("rounding", "float32", maps, rows, attributes={"long_name": meaning}))
    if probe.jacobian_row is not None:
        meaning = "derivative of each logit by each pixel, in logits per unit of pixel value"
        row = probe.jacobian_row
        found.append(Variable("jacobian", "float32", ("image", "class", *AXES), row, 0, {"long_name": meaning}))
    return found


def _unit(analyzer: Analyzer) -> str:
    return analyzer.method.unit.replace("{input}", "pixel value")
