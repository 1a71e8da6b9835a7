"""One pass over a store: everything that its page shows, in memory that does not depend on the number of images."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pellucid.core.terminal import track
from pellucid.report._tiles import shrunk
from pellucid.report.stored._maps import EDGES, Extreme, Extremes, MeanMaps, kept_size, relative_residuals
from pellucid.storage.explanations import StoredExplanations

__all__ = ["Survey", "survey"]

MOST_REASONS = 1000
"""Number of different reasons for unreadable images that are counted separately."""
MOST_COUNTED = 4000
"""Maximum number of classes of a confusion matrix."""
JACOBIAN = "jacobian"


@dataclass(eq=False)
class Survey:
    """The counts of a store."""

    stored: StoredExplanations
    images: int = 0
    """Images in complete shards."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Numbers of images without results, by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """Key of the first image, by reason."""
    confusion: np.ndarray | None = None
    """(true class, prediction) numbers of images; None without labels, or for too many classes."""
    right: int = 0
    labeled: int = 0
    """Readable images with a label."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(class,) numbers of readable images by true class."""
    predictions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(class,) numbers of images by prediction."""
    judged: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """The same for images with a label."""
    hits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(class,) numbers of correct images by true class."""
    confidence: float = 0.0
    """Sum of the probabilities of the predictions."""
    wrong_keys: dict[tuple[int, int], str] = field(default_factory=dict)
    """Key of the first misclassified image, by true class and prediction."""
    grouping: str = ""
    """Variable by which the mean maps are grouped, in words, such as "predicted class"."""
    means: MeanMaps | None = None
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    """Numbers of images by method in the bins of `EDGES`, with an open one at either end."""
    smallest: dict[str, Extremes] = field(default_factory=dict)
    largest: dict[str, Extremes] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """Number of images without results."""
        return sum(self.reasons.values())

    @property
    def readable(self) -> int:
        """Number of images with results."""
        return self.images - self.unreadable

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the mean maps: the methods, or the Jacobian alone."""
        return self.stored.methods or ((JACOBIAN,) if self.means is not None else ())

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; positions if the store has none."""
        known = self.stored.classes
        return known or tuple(map(str, range(0 if self.means is None else self.means.classes)))


def survey(stored: StoredExplanations) -> Survey:
    """Read a store once and count what its page shows; missing shards are left out.

    Raises `DataError` for a damaged shard, which it names.
    """
    made, total = Survey(stored), stored.completed
    variables = set(stored.variables)
    count = len(stored.classes)
    made.labels, made.predictions, made.judged, made.hits = (np.zeros(count, np.int64) for _ in range(4))
    if {"label", "prediction"} <= variables and count <= MOST_COUNTED:
        made.confusion = np.zeros((count, count), np.int64)
    promising = stored.methods_with_sums if "residual" in variables else ()
    made.histograms = {method: np.zeros(len(EDGES) + 1, np.int64) for method in promising}
    made.smallest = {method: Extremes(1) for method in promising}
    made.largest = {method: Extremes(-1) for method in promising}
    with track("report", total) as tracker:
        for whole in stored.parts(readable=None):
            made.images += len(whole)
            part = whole
            if "error" in variables:
                _count_errors(made, whole)
                part = whole.select()
            if len(part):
                _count(made, part, variables)
                _add_maps(made, part, variables)
            tracker.update(made.images)
    return made


def _count_errors(made: Survey, part: StoredExplanations) -> None:
    for error, key in zip(part.errors, part.keys, strict=True):
        if error:
            reason = str(error) if len(made.reasons) < MOST_REASONS or error in made.reasons else "other reasons"
            made.reasons[reason] += 1
            made.examples.setdefault(reason, str(key))


def _count(made: Survey, part: StoredExplanations, variables: set[str]) -> None:
    """Count labels, predictions and confusions."""
    if "prediction" not in variables:
        return
    count, predictions = len(made.stored.classes), part.predictions
    made.predictions += np.bincount(predictions, minlength=count)
    made.confidence += float(part.probabilities.sum(dtype=np.float64))
    labels = part.labels
    known = labels >= 0
    is_right = known & (labels == predictions)
    made.labels += np.bincount(labels[known], minlength=count)
    made.judged += np.bincount(predictions[known], minlength=count)
    made.hits += np.bincount(labels[is_right], minlength=count)
    made.labeled += int(known.sum())
    made.right += int(is_right.sum())
    if made.confusion is None:
        return
    np.add.at(made.confusion, (labels[known], predictions[known]), 1)
    keys = part.keys
    for number in np.flatnonzero(known & ~is_right).tolist():
        made.wrong_keys.setdefault((int(labels[number]), int(predictions[number])), str(keys[number]))


def _add_maps(made: Survey, part: StoredExplanations, variables: set[str]) -> None:
    if "relevance" in variables:
        _add_relevance(made, part)
    elif JACOBIAN in variables and len(part.jacobian.shape) == 5:
        jacobian = part.jacobian[:].sum(2)  # over the channels
        count = jacobian.shape[1]
        if made.means is None:
            made.means = MeanMaps(kept_size(jacobian.shape[2], jacobian.shape[3], 2 * count), count, 1)
            made.grouping = "output"
        for number in range(count):
            made.means.add(jacobian[:, number : number + 1], np.full(len(jacobian), number))


def _add_relevance(made: Survey, part: StoredExplanations) -> None:
    """Add the maps of the explained class, or of the predicted one if all are explained."""
    maps = np.stack([_of_prediction(part, part.relevance(method)) for method in part.methods], 1)
    maps = maps.sum(2)  # over the channels
    if made.means is None:
        count = len(part.classes)
        made.means = MeanMaps(
            kept_size(maps.shape[2], maps.shape[3], 2 * count * len(part.methods)), count, len(part.methods)
        )
        made.grouping = "true class" if made.stored.settings.get("target") == "label" else "predicted class"
    groups = part.labels if made.grouping == "true class" else part.predictions
    made.means.add(maps, groups)
    for method in made.histograms:
        _add_residuals(made, part, method, maps)


def _of_prediction(part: StoredExplanations, values: np.ndarray) -> np.ndarray:
    """Choose the predicted class of values (image, class, …), if all classes are explained."""
    return values if "target" in part.variables else values[np.arange(len(values)), part.predictions]


def _add_residuals(made: Survey, part: StoredExplanations, method: str, maps: np.ndarray) -> None:
    expected, residual = (_of_prediction(part, values) for values in (part.expected(method), part.residual(method)))
    relative = relative_residuals(expected, residual)
    made.histograms[method] += np.bincount(np.searchsorted(EDGES, relative, "right"), minlength=len(EDGES) + 1)
    columns: Mapping[str, np.ndarray] = {
        "index": part.indices,
        "label": part.labels,
        "prediction": part.predictions,
        "expected": expected,
        "residual": residual,
        "relative": relative,
    }
    keys, size = part.keys, made.means.size if made.means else maps.shape[2:]

    def extreme(number: int) -> Extreme:
        values = {name: column[number].item() for name, column in columns.items()}
        return Extreme(key=str(keys[number]), maps=shrunk(maps[number], size), **values)

    made.smallest[method].add(relative, extreme)
    made.largest[method].add(relative, extreme)
