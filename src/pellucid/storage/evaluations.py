"""Evaluate explanation methods, cache finished measurements on disk, and plot the leaderboard."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from pellucid.attribution import Analyzer
from pellucid.core.seeding import derive_seed
from pellucid.core.terminal import track
from pellucid.evaluation import CONTROLS, DEFAULT_METHODS, DEFAULT_METRICS, Metric
from pellucid.evaluation import Evaluation as Found
from pellucid.evaluation._case import Retrain
from pellucid.evaluation._evaluation import Scores
from pellucid.evaluation._run import Record, plan, run
from pellucid.plots.leaderboard import Cell, Column, Curves, leaderboard
from pellucid.storage.atomic import json_text, write_bytes
from pellucid.training.retrain import retrain_and_predict

__all__ = ["Evaluation", "evaluate", "leaderboard_figure"]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Found):
    """The results of an evaluation, with a leaderboard figure."""

    def figure(self, title: str = "Which explanation can be trusted?") -> Figure:
        """Plot the leaderboard: best method in bold, controls below a line, gray if worse than a control."""
        return leaderboard_figure(self, (title, how_to_read(self)))


def evaluate(
    model: nn.Module,
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
        images: (image, channel, height, width) floats in [0, 1].
        targets: (image,) class indices to explain; None: the predicted classes.
        methods: method names, or analyzers of this model if a method needs options or was fitted.
        metrics: metric names, or configured metrics such as `METRICS["road"](order="least")`.
        seed: random seed.
        masks: (image, height, width) booleans, required by the metrics that compare with a ground truth.
        training: images and labels, required by `roar`, which retrains copies of the model on modified images.
        save: a cache folder. Finished measurements are stored there and reused by later calls with the same model,
            images and settings.

    Raises `UnknownName` for unknown names, `ShapeError` for tensors of the wrong shape, and `ConfigError` if a metric
    lacks its masks or training images, all before any computation. A method that does not apply to the model is
    skipped and listed in `.refused`.

    >>> import torch
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
        found = run(request, record)
    return Evaluation(**{part.name: getattr(found, part.name) for part in fields(found)})


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


def _retrainer(model: nn.Module, seed: int) -> Retrain:
    return lambda images, labels, tests: retrain_and_predict(model, images, labels, tests, derive_seed(seed, "retrain"))


def how_to_read(found: Found) -> str:
    """Return the subtitle of the leaderboard figure, which explains how to read it."""
    left_out = sorted({name.partition(",")[0] for name in found.refused})
    return (
        f"{found.images} images; 95% bootstrap interval below each mean; longer bars are better. Bold: "
        "best; ≈: not significantly different from the best; gray: worse than a control (controls that win by "
        "construction are excluded)." + (f" Not applicable: {', '.join(left_out)}." if left_out else "")
    )


def leaderboard_figure(found: Found, headline: tuple[str, str]) -> Figure:
    """Plot an evaluation as a leaderboard, with the selectivity curves if that metric was measured."""
    cells = {(row.method, row.metric): row for row in found.rows}
    columns = []
    for metric, about in found.metrics.items():
        ties, best = found.ties(metric), found.best(metric)
        column = []
        for method in found.methods:
            row = cells.get((method, metric))
            if row is None or not np.isfinite(row.value):
                column.append(Cell())
                continue
            is_control = method in CONTROLS
            column.append(
                Cell(
                    row.value,
                    row.low,
                    row.high,
                    is_best=method == best,
                    is_tied=method in ties and method != best,
                    is_beaten=not is_control and bool(found.beaten_by(method, metric)),
                    is_trivial=is_control and method in about["won_by"],
                )
            )
        columns.append(Column(metric, bool(about["is_higher_better"]), column))
    return leaderboard(list(found.methods), columns, _controls(found), _curves(found), headline)


def _controls(found: Found) -> int:
    return sum(method in CONTROLS for method in found.methods)


def _curves(found: Found) -> Curves | None:
    name = next((label for label, about in found.metrics.items() if about["name"] == "selectivity"), None)
    if name is None:
        return None
    drawn = {
        method: {part: np.array(points) for part, points in found.scores[method, name].curves.items()}
        for method in found.methods
        if (method, name) in found.scores
    }
    ranked = sorted(drawn, key=lambda method: found.value(method, name))
    output = found.metrics[name]["options"]["output"]
    return Curves({method: drawn[method] for method in ranked}, f"{output} of the explained class, mean over images")
