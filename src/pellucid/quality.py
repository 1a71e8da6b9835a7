"""Measure explanations, with what is finished kept on disk, and draw what came out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from pellucid.artifacts._atomic import json_text, write_bytes
from pellucid.attribution import Analyzer
from pellucid.core.seeding import derive_seed
from pellucid.core.terminal import track
from pellucid.evaluation import CONTROLS, DEFAULT_METHODS, DEFAULT_METRICS, Metric
from pellucid.evaluation import Evaluation as Found
from pellucid.evaluation._case import Retrain
from pellucid.evaluation._evaluation import Scores
from pellucid.evaluation._run import Record, plan, run
from pellucid.plots.leaderboard import Cell, Column, Curves, leaderboard
from pellucid.training.afresh import train_afresh

__all__ = ["Evaluation", "evaluate", "leaderboard_figure"]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Found):
    """What an evaluation found, and how it looks."""

    def figure(self, title: str = "Which explanation can be trusted?") -> Figure:
        """The table as a picture: the best bold, controls below a line, grey what is worse than one of them."""
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
    """How good explanation methods are on these images, by several metrics, the controls always beside them.

    All methods get the same images and the same random draws. Nothing of the model is changed.

    Args:
        model: from images to logits.
        images: (image, channel, height, width) floats in [0, 1].
        targets: (image,) the class explained; None: the predicted one.
        methods: names, or analyzers of this model where a method needs options or was fitted.
        metrics: names, or metrics with options such as `METRICS["road"](order="least")`.
        seed: of every draw.
        masks: (image, height, width) booleans, for the metrics that compare with a ground truth.
        training: images and labels, for `roar`, which trains networks of the model's kind on changed copies of them.
        save: a folder. Each finished method and metric is kept there, and not computed again by a call on the same
            model, images and settings.

    Raises `UnknownName` for names there are not, `ShapeError` for tensors that do not fit, `ConfigError` where a
    metric's masks or training images are missing: all before any work. A method that does not apply to the model is
    left out and named in `.refused`.

    >>> import torch
    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> found = evaluate(linear, torch.rand(4, 1, 4, 4), methods=["input_x_gradient"], metrics=["completeness"])
    >>> found.rows[0].method, found.rows[0].value < 1e-6, found.best("completeness")
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
    """One small JSON file per finished block, named by its key."""

    def find(key: str) -> Scores | None:
        try:
            return Scores(**json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # not there, or not whole: computed anew

    def keep(key: str, scores: Scores) -> None:
        write_bytes(folder / f"{key}.json", json_text(asdict(scores)).encode())

    return find, keep


def _retrainer(model: nn.Module, seed: int) -> Retrain:
    return lambda images, labels, tests: train_afresh(model, images, labels, tests, derive_seed(seed, "retrain"))


def how_to_read(found: Found) -> str:
    """The subtitle of an evaluation's picture."""
    left_out = sorted({name.partition(",")[0] for name in found.refused})
    return (
        f"{found.images} images, 95 % bootstrap intervals below each mean; the longer the band, the better. Bold: "
        "best; ≈: no significant difference from it; grey: worse than a control (or a control that wins "
        "by construction)." + (f" Not applicable: {', '.join(left_out)}." if left_out else "")
    )


def leaderboard_figure(found: Found, headline: tuple[str, str]) -> Figure:
    """The table of an evaluation as a picture, with the curves of selectivity where it was measured."""
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
    return Curves({method: drawn[method] for method in ranked}, f"explained class's {output}, mean over the images")
