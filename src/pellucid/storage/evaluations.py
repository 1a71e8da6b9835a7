"""`pellucid.evaluate`: evaluate explanation methods, with finished measurements cached on disk."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from pellucid.attribution import Analyzer
from pellucid.core.seeding import derive_seed
from pellucid.core.terminal import track
from pellucid.engine.model import Network, unwrap
from pellucid.evaluation import DEFAULT_METHODS, DEFAULT_METRICS, Evaluation, Metric
from pellucid.evaluation._case import Retrain
from pellucid.evaluation._evaluation import Scores
from pellucid.evaluation._run import Record, plan, run
from pellucid.storage.atomic import json_text, write_bytes
from pellucid.training.retrain import retrain_and_predict

__all__ = ["evaluate"]


def evaluate(
    model: Network,
    images: Tensor,
    targets: Tensor | None = None,
    methods: Sequence[str | Analyzer] = DEFAULT_METHODS,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    *,
    seed: int = 0,
    masks: Tensor | None = None,
    training: tuple[Tensor, Tensor] | None = None,
    save: str | Path | None = None,
) -> Evaluation:
    """Evaluate explanation methods on these images by several metrics, always alongside control maps.

    All methods see the same images and the same random draws. The model is not modified.

    Args:
        model: a module from images to logits.
        images: (image, channel, height, width) floats in [0, 1]; or signals (example, channel, time), volumes (example,
            channel, depth, height, width) or tables (example, feature), for the metrics that accept them.
        targets: (image,) class indices to explain; None: the predicted classes.
        methods: method names, or analyzers of this model if a method needs options or was fitted.
        metrics: metric names, or configured metrics such as `METRICS["road"](order="least")`.
        seed: random seed.
        masks: (image, height, width) booleans, one per place of other kinds of input, required by the metrics that
            compare with a ground truth.
        training: images and labels, required by `roar`, which retrains copies of the model on modified images.
        save: a cache folder. Finished measurements are stored there and reused by later calls with the same model,
            images and settings.

    Raises `UnknownName` for unknown names, `ShapeError` for tensors of the wrong shape, and `ConfigError` if a metric
    lacks its masks or training images, all before any computation. A method that does not apply to the model is
    skipped and listed in `.refused`.

    >>> import torch
    >>> from torch import nn
    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> result = evaluate(linear, torch.rand(4, 1, 4, 4), methods=["input_x_gradient"], metrics=["completeness"])
    >>> result.rows[0].method, result.rows[0].value < 1e-6, result.best("completeness")
    ('input_x_gradient', True, 'input_x_gradient')
    """
    retrain = _retrainer(model, seed) if training is not None else None
    request = plan(model, images, targets, methods, metrics, seed=seed, masks=masks, training=training, retrain=retrain)
    with track("evaluating", request.blocks) as bar:
        record = Record(progress=bar.update)
        if save is not None:
            find, keep = _kept_in(Path(save))
            record = Record(find, keep, bar.update)
        return run(request, record)


def _kept_in(folder: Path) -> tuple[Callable[[str], Scores | None], Callable[[str, Scores], None]]:
    """Return functions that read and write one small JSON file per finished measurement, named by its key."""

    def find(key: str) -> Scores | None:
        try:
            return Scores(**json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # missing or damaged: computed again

    def keep(key: str, scores: Scores) -> None:
        write_bytes(folder / f"{key}.json", json_text(asdict(scores)).encode())

    return find, keep


def _retrainer(model: Network, seed: int) -> Retrain:
    inside, derived = unwrap(model), derive_seed(seed, "retrain")
    return lambda images, labels, tests: retrain_and_predict(inside, images, labels, tests, derived)
