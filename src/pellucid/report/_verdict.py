"""Conclusions about a run in sentences, each supported by its files; claims that these do not support are omitted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.core.text import listed
from pellucid.evaluation import Evaluation
from pellucid.evaluation._conclusions import class_insensitive, name_in, weight_insensitive
from pellucid.evaluation._recommendation import most_faithful, relation
from pellucid.report._material import Entry, Material
from pellucid.report._recommended import last_evaluation

__all__ = ["Sentence", "accuracy_parts", "calibration", "conclusions", "shown_epoch", "verdict"]

FEWEST_IMAGES = 30
"""Minimum number of images for an interval that assumes a normal distribution."""
TWO_SIDED = 1.96
"""Standard errors in half of a 95% interval."""
SIGNIFICANT = 0.01
"""Largest p-value of a calibration error to mention if the mean confidence is right."""
SMALLEST_POINTS = 0.005
"""Smallest lower end of the interval of a miscalibration to mention, in percentage points."""
MOST_NAMES = 3
"""Maximum number of equally frequent confusions to name."""


@dataclass(frozen=True)
class Sentence:
    """A conclusion about a run."""

    text: str
    section: str = ""
    """Id of the section of the page that supports it; empty if there is none."""


def verdict(material: Material) -> list[Sentence]:
    """Return the conclusions about a run, with its state if it is not finished, and its failures."""
    return [*_unfinished(material), *conclusions(material), *_failures(material)]


def conclusions(material: Material) -> list[Sentence]:
    """Return sentences on accuracy and confusions, calibration, layers and explanation methods, the accuracy first."""
    evaluation = last_evaluation(material)
    return [
        *_accuracy(material),
        *_calibration(material),
        *_layers(material),
        *([] if evaluation is None else _explanations(evaluation)),
    ]


def _unfinished(material: Material) -> list[Sentence]:
    """Return a sentence about a run that is not finished, whose results are preliminary."""
    if material.status == "finished":
        return []
    if material.run.get("kind") == "inspect":
        return [Sentence("The inspection is not finished, so some results are missing.")]
    done = material.metrics[-1]["epoch"] if material.metrics else None
    if done is None:
        return [Sentence("Training has not completed an epoch yet.")]
    planned = material.run.get("epochs")
    of = f" of {planned}" if isinstance(planned, int) else ""
    return [Sentence(f"Training is not finished; these are the results up to epoch {done}{of}.")]


def shown_epoch(material: Material) -> int | None:
    """Return the epoch that the results are about: the best one, or the last if no checkpoint is marked as the best."""
    if material.best_epoch is not None:
        return material.best_epoch
    return int(material.metrics[-1]["epoch"]) if material.metrics else None


def accuracy_parts(material: Material) -> tuple[str, tuple[str, ...]]:
    """Return the test accuracy, and the numbers of errors and the most common confusion as phrases; "" if unknown."""
    epoch, line, accuracy = _result(material)
    if accuracy is None:
        return "", ()
    counts = _counts(material, epoch, accuracy)
    # with errors, as many digits as it takes to differ from 100%
    digits = next((digits for digits in (2, 3, 4) if accuracy == 1 or round(100 * accuracy, digits) < 100), 5)
    return f"{accuracy:.{digits}%}", _details(
        counts, material.classes, accuracy, material.data.get("test_images"), line
    )


def _result(material: Material) -> tuple[int | None, Mapping[str, Any], float | None]:
    """Return the shown epoch, its line of metrics.jsonl, and the test accuracy if it is valid."""
    epoch = shown_epoch(material)
    line = next((line for line in material.metrics if line["epoch"] == epoch), {})
    accuracy = material.run.get("test_accuracy")
    accuracy = line.get("test_accuracy") if accuracy is None else accuracy
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
        return epoch, line, None
    return epoch, line, float(accuracy)


def _accuracy(material: Material) -> list[Sentence]:
    number, details = accuracy_parts(material)
    if not number:
        return []
    _, line, _ = _result(material)
    has_matrix = bool(material.entries("confusion_matrix", "data"))
    known = f" ({'; '.join(details)})" if details else ""
    text = f"Test accuracy: {number}{known}."
    sentences = [Sentence(text, "confusion_matrix" if has_matrix else "curves")]
    # recorded as null if it is not finite
    if "test_loss" in line and line["test_loss"] is None:
        sentences.append(Sentence("The test loss is not finite, so the predictions are meaningless.", "curves"))
    return sentences


def _counts(material: Material, epoch: int | None, accuracy: float) -> np.ndarray | None:
    """Return the confusion matrix of an epoch; None if it is missing, or belongs to other results."""
    entries = material.entries("confusion_matrix", "data")
    found = material.by_epoch(
        {epoch: entries[epoch]} if epoch in entries else {},
        lambda entry: None if (record := material.numbers(entry)) is None else np.array(record["counts"], np.int64),
    )
    counts = next(iter(found.values()), None)
    if counts is None or counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.sum() <= 0:
        return None
    # a matrix that contradicts the recorded accuracy is no evidence
    return counts if abs(counts.trace() / counts.sum() - accuracy) < 0.5 / counts.sum() else None


def _details(
    counts: np.ndarray | None, classes: Sequence[str], accuracy: float, images: Any, line: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the number of misclassified images and the most common confusion, as far as they are known."""
    if counts is not None:
        names = [*classes, *map(str, range(len(classes), len(counts)))]
        wrong = counts - np.diag(counts.diagonal())
        parts = [_misclassified(int(wrong.sum()), int(counts.sum())), _most_common(wrong, names)]
    else:
        parts = [_misclassified_of(accuracy, images), _recorded_confusion(line)]
    return tuple(part for part in parts if part)


def _misclassified_of(accuracy: float, images: Any) -> str:
    """Return the number of errors among `images`; empty if the accuracy does not give a whole number."""
    if not isinstance(images, int) or isinstance(images, bool) or images < 1:
        return ""
    wrong = round((1 - accuracy) * images)
    return _misclassified(wrong, images) if abs((1 - accuracy) * images - wrong) < 1e-3 else ""


def _misclassified(wrong: int, images: int) -> str:
    return f"{wrong:,} of {images:,} misclassified" if wrong else f"all {images:,} classified correctly"


def _most_common(wrong: np.ndarray, names: Sequence[str]) -> str:
    """Return the most frequent confusions; empty if no pair of classes is confused twice."""
    most = int(wrong.max())
    pairs = np.argwhere(wrong == most)
    if most < 2 or len(pairs) > MOST_NAMES:
        # a single error is its own most common confusion
        pairs = pairs[:1] if wrong.sum() == 1 else pairs[:0]
    named = [f"{names[label]} predicted as {names[prediction]}" for label, prediction in pairs]
    if not named or most == 1:
        return "".join(named)
    return f"most common: {listed(named)}, {most:,} times{' each' if len(named) > 1 else ''}"


def _recorded_confusion(line: Mapping[str, Any]) -> str:
    """Return the most common confusion in an epoch's line of metrics.jsonl; empty if it is not recorded."""
    confusion = line.get("most_common_confusion")
    if not isinstance(confusion, dict) or not isinstance(images := confusion.get("images"), int) or images < 2:
        return ""
    return f"most common: {confusion.get('label')} predicted as {confusion.get('prediction')}, {images:,} times"


def _calibration(material: Material) -> list[Sentence]:
    epoch = shown_epoch(material)
    entries = material.entries("confusion_matrix", "arrays", "predictions")
    found = material.by_epoch(
        {epoch: entries[epoch]} if epoch in entries else {},
        lambda entry: None if (arrays := material.arrays(entry)) is None else calibration(arrays),
    )
    text, record = next(iter(found.values()), ""), _calibration_record(material, epoch)
    if record is None:
        return [Sentence(text)] if text else []
    text = f"{text.removesuffix('.')}{_repair(record)}." if text else _miscalibration(record, is_local=bool(found))
    return [Sentence(text, "calibration")] if text else []


def _calibration_record(material: Material, epoch: int | None) -> dict[str, Any] | None:
    """Return the numbers of the hook `calibration` at an epoch; None if they are missing or damaged."""
    entries = material.entries("calibration", "data")
    found = material.by_epoch({epoch: entries[epoch]} if epoch in entries else {}, _checked_record(material))
    return next(iter(found.values()), None)


def _checked_record(material: Material) -> Callable[[Entry], dict[str, Any] | None]:
    def read(entry: Entry) -> dict[str, Any] | None:
        if (record := material.numbers(entry)) is None:
            return None
        predicted, scaled, temperature = record["predicted"], record["scaled"], record["temperature"]
        return {
            "ece": float(predicted["ece"]),
            "expected": float(predicted["expected_ece"]),
            "p": float(predicted["p"]),
            "scaled": None if scaled is None else float(scaled["ece"]),
            # without validation images, there are two temperatures; an end of an interval is None if it is unbounded
            "temperature": [
                (float(value), float(low), math.inf if high is None else float(high))
                for value, low, high in zip(temperature["values"], temperature["low"], temperature["high"], strict=True)
                if low is not None
            ],
        }

    return read


def _repair(record: Mapping[str, Any]) -> str:
    """Return a phrase on a temperature that is significantly different from 1 and lowers the error; otherwise empty."""
    fitted, scaled = record["temperature"], record["scaled"]
    if scaled is None or len(fitted) != 1 or scaled >= record["ece"]:
        return ""
    value, low, high = fitted[0]
    if low <= 1 <= high:
        return ""
    return f"; a temperature of {value:.2g} lowers the ECE from {record['ece']:.2%} to {scaled:.2%}"


def _miscalibration(record: Mapping[str, Any], *, is_local: bool) -> str:
    """Describe a calibration error; empty if it is not significant.

    `is_local`: the mean confidence is known to be right. It is unknown without the hook `confusion_matrix`.
    """
    if not record["p"] <= SIGNIFICANT:
        return ""
    kind = "Miscalibrated, although not on average" if is_local else "Miscalibrated"
    return (
        f"{kind}: ECE {record['ece']:.2%}, where {record['expected']:.2%} is expected "
        f"of calibrated probabilities (p ≤ {record['p']:.1g})."
    )


def calibration(arrays: Mapping[str, np.ndarray]) -> str:
    """Describe the mean confidence minus the accuracy over all test images; empty if its 95% interval includes 0.

    The standard error is that of the differences image by image, or the one expected of calibrated probabilities if
    that is larger: with no or few errors, the differences hardly vary, and the interval would be too narrow.
    """
    confidences = np.asarray(arrays["confidences"], float)
    is_right = np.asarray(arrays["labels"]) == np.asarray(arrays["predictions"])
    if confidences.shape != is_right.shape or confidences.ndim != 1:
        raise ValueError(f"it has confidences of shape {confidences.shape} for {is_right.size} predictions")
    if len(confidences) < FEWEST_IMAGES or not np.isfinite(confidences).all():
        return ""
    differences = confidences - is_right
    variance = max(float(differences.var(ddof=1)), float((confidences * (1 - confidences)).mean()))
    half, mean = TWO_SIDED * math.sqrt(variance / len(differences)), float(differences.mean())
    low, high = 100 * (abs(mean) - half), min(100 * (abs(mean) + half), 100.0)
    if low < SMALLEST_POINTS:
        return ""
    # an end above 0 must not be shown as 0.0
    digits = 1 if low >= 0.05 else 2
    return (
        f"{'Over' if mean > 0 else 'Under'}confident by {100 * abs(mean):.{digits}f} points (95% interval "
        f"{low:.{digits}f} to {high:.{digits}f})."
    )


def _layers(material: Material) -> list[Sentence]:
    """Return the severe findings about layers: half of a layer's units lost, or gradients that vanish or explode."""
    epoch = shown_epoch(material)
    entries = material.entries("layers", "data")
    found = material.by_epoch(
        {epoch: entries[epoch]} if epoch in entries else {},
        lambda entry: None if (record := material.numbers(entry)) is None else _severe(record),
    )
    return [Sentence(text, "layers") for text in next(iter(found.values()), [])]


def _severe(record: Mapping[str, Any]) -> list[str]:
    return [str(one["text"]) for one in record["findings"] if one["is_severe"] is True]


def _explanations(evaluation: Evaluation) -> list[Sentence]:
    best, recommended = most_faithful(evaluation), evaluation.recommendation
    texts = []
    if best:
        # the recommended method first
        names = [name_in(evaluation, one) for one in sorted(best, key=lambda one: one != recommended.method)]
        tied, plural = (f" ({relation(evaluation, best)})", "s") if len(names) > 1 else ("", "")
        texts.append(f"Most faithful explanation{plural}: {listed(names)}{tied}, better than every control.")
        if recommended.method is not None and recommended.method not in best:
            texts.append(f"Recommended explanation: {name_in(evaluation, recommended.method)}.")
    elif recommended.metrics:
        texts.append(recommended.reason)
    if alike := [name_in(evaluation, one) for one in class_insensitive(evaluation)]:
        texts.append(f"{listed(alike)} {'is' if len(alike) == 1 else 'are'} nearly class-insensitive.")
    if unchanged := [name_in(evaluation, one) for one in weight_insensitive(evaluation)]:
        texts.append(f"{listed(unchanged)} {'does' if len(unchanged) == 1 else 'do'} not depend on the weights.")
    if constant := [name_in(evaluation, one) for one in evaluation.constant_maps]:
        gives = "gives" if len(constant) == 1 else "give"
        if evaluation.same_map:
            texts.append(f"For a given class, {listed(constant)} {gives} every image the same map.")
        else:
            texts.append(f"{listed(constant)} {gives} maps that do not change when the image is shifted.")
    return [Sentence(text, "leaderboard") for text in texts]


def _failures(material: Material) -> list[Sentence]:
    names = list(dict.fromkeys(str(one.get("hook")) for one in material.failures))
    return [Sentence(f"Failed: {listed(names)}.", "failures")] if names else []
