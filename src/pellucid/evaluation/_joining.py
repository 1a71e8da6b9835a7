"""Join evaluations of different images by the same methods and metrics into one."""

from collections.abc import Sequence

import numpy as np

from pellucid.evaluation import CONTROLS
from pellucid.evaluation._evaluation import Evaluation, Scores

__all__ = ["joined"]


def joined(parts: Sequence[Evaluation], methods: Sequence[str]) -> Evaluation:
    """Return the evaluation of all images of the parts, for these methods and the controls.

    Curves are averaged over the images. A metric that a part does not have is missing for its images.
    """
    last = parts[-1]
    kept = (*methods, *(name for name in last.methods if name in CONTROLS))
    about = {metric: one for part in parts for metric, one in part.metrics.items()}
    scores = {(method, metric): _joined(parts, method, metric) for method in kept for metric in about}
    refused = {name: why for part in parts for name, why in part.refused.items()}
    compared = [part.same_map for part in parts if part.same_map is not None]
    return Evaluation(
        kept,
        about,
        {key: one for key, one in scores.items() if one is not None},
        sum(part.images for part in parts),
        last.seed,
        {name: why for name, why in refused.items() if name.partition(",")[0] in kept},
        {metric: sum(part.seconds.get(metric, 0.0) for part in parts) for metric in about},
        # Known from the first images that were compared: a method with constant maps has them for all images.
        tuple(method for method in kept if method in compared[0]) if compared else None,
    )


def _joined(parts: Sequence[Evaluation], method: str, metric: str) -> Scores | None:
    found = [(part.scores.get((method, metric)), part.images) for part in parts]
    measured = [(scores, images) for scores, images in found if scores is not None]
    if not measured:
        return None
    first = measured[0][0]
    values = [list(scores.values) if scores else [None] * images for scores, images in found]
    beside = {name: [value for scores, _ in measured for value in scores.beside.get(name, [])] for name in first.beside}
    weights = np.array([images for _, images in measured], dtype=float)
    curves = {
        name: np.average([scores.curves[name] for scores, _ in measured], axis=0, weights=weights).tolist()
        for name in first.curves
    }
    return Scores([value for part in values for value in part], beside, curves)
