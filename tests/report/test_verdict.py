"""Sentences about a run: each is supported by its files, or omitted."""

import numpy as np
import pytest

from pellucid.report import Material
from pellucid.report._verdict import calibration, verdict
from pellucid.storage.store import Store
from pretended_run import keep, metrics_line, run_record, write_run


def texts(store):
    return [sentence.text for sentence in verdict(Material(store))]


def run_with(folder, counts, classes=("cat", "dog", "bird"), **changes):
    """A finished run of one epoch with this confusion matrix."""
    counts = np.array(counts)
    accuracy = counts.trace() / counts.sum()
    store = Store(folder)
    store.begin(run_record(classes, **({"test_accuracy": accuracy} | changes)))
    store.add_metrics(metrics_line(1) | {"test_accuracy": accuracy})
    keep(store, "confusion_matrix", 1, numbers={"counts": counts.tolist(), "classes": list(classes)})
    return store


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (
            [[979, 7, 0], [2, 1000, 0], [0, 2, 10]],
            "Test accuracy: 99.45% (11 of 2,000 misclassified; most common: cat predicted as dog, 7 times).",
        ),
        ([[2, 2, 0], [2, 2, 0], [0, 1, 1]],
         ("Test accuracy: 50.00% (5 of 10 misclassified; most common: cat predicted as dog and dog predicted as cat, 2 "
         "times each).")),
        ([[9, 1, 0], [0, 9, 1], [0, 0, 5]], "Test accuracy: 92.00% (2 of 25 misclassified)."),  # no pair twice
        ([[9, 1, 0], [0, 9, 0], [0, 0, 1]], "Test accuracy: 95.00% (1 of 20 misclassified; cat predicted as dog)."),
        ([[4, 0, 0], [0, 5, 0], [0, 0, 6]],
         "Test accuracy: 100.00% (all 15 classified correctly)."),
        ([[0, 4, 0], [0, 0, 4], [4, 0, 0]],
         ("Test accuracy: 0.00% (12 of 12 misclassified; most common: cat predicted as dog, dog predicted as bird and "
         "bird predicted as cat, 4 times each).")),
    ],
)  # fmt: skip
def test_accuracy_with_the_most_common_confusion(counts, text, tmp_path):
    assert verdict(Material(run_with(tmp_path, counts)))[0].text == text


def test_many_classes_with_equally_frequent_confusions_name_none(tmp_path):
    counts = np.diag(np.full(300, 3)) + np.roll(np.diag(np.full(300, 2)), 1, axis=1)
    names = [f"class <{number}>" for number in range(300)]
    (sentence,) = verdict(Material(run_with(tmp_path, counts, names)))
    assert sentence.text == "Test accuracy: 60.00% (600 of 1,500 misclassified)."
    assert sentence.section == "confusion_matrix"


def test_counts_that_contradict_the_accuracy_are_not_used(tmp_path):
    store = run_with(tmp_path, [[5, 1], [0, 4]], ("a", "b"), test_accuracy=0.8)
    # 80% of the 15 test images in run.json
    assert texts(store) == ["Test accuracy: 80.00% (3 of 15 misclassified)."]


def test_without_a_confusion_matrix_the_epoch_s_record_is_used(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(test_accuracy=0.8))
    confusion = {"label": "dog", "prediction": "cat", "images": 2, "of": 7}
    store.add_metrics(metrics_line(1) | {"most_common_confusion": confusion})
    store.add_metrics(metrics_line(2) | {"most_common_confusion": confusion | {"images": 3}})  # not the best epoch
    assert texts(store) == [
        "Test accuracy: 80.00% (3 of 15 misclassified; most common: dog predicted as cat, 2 times)."
    ]


def test_a_diverged_run_says_so(tmp_path):
    store = run_with(tmp_path, [[5, 0], [5, 0]], ("a", "b"))
    store.add_metrics(metrics_line(1) | {"test_accuracy": 0.5, "test_loss": float("nan")})
    assert texts(store)[1] == "The test loss is not finite, so the predictions are meaningless."


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("run", "interrupted", "Training is not finished; these are the results up to epoch 1 of 2."),
        ("watch", "failed", "Training is not finished; these are the results up to epoch 1 of 2."),
        ("inspect", "interrupted", "The inspection is not finished, so some results are missing."),
    ],
)
def test_an_unfinished_run_says_so_first(kind, status, text, tmp_path):
    store = run_with(tmp_path, [[8, 1], [1, 8]], ("a", "b"), kind=kind, status=status, test_accuracy=None)
    first, second = texts(store)
    assert first == text
    assert second.startswith("Test accuracy: 88.89% (2 of 18 misclassified")


def test_an_empty_folder_supports_no_claim(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(test_accuracy=None, status="interrupted"))
    assert texts(store) == ["Training has not completed an epoch yet."]


def test_failures_name_each_hook_once(tmp_path):
    store = write_run(tmp_path)
    for hook, epoch in (("tsne", 1), ("tsne", 2), ("saliency", 2)):
        store.add_failure(hook, epoch, "ValueError", "…")
    last = verdict(Material(store))[-1]
    assert (last.text, last.section) == ("Failed: tsne and saliency.", "failures")


@pytest.mark.parametrize(("wrong", "shown"), [(0, "100.00%"), (2, "99.996%"), (3000, "94.00%")])
def test_a_single_error_is_no_accuracy_of_100_percent(wrong, shown, tmp_path):
    store = run_with(tmp_path, [[25000 - wrong, wrong], [0, 25000]], ("a", "b"))
    assert texts(store)[0].startswith(f"Test accuracy: {shown} (")


def predicted(confidences, is_right):
    labels = np.zeros(len(confidences), np.int32)
    return {"labels": labels, "predictions": np.where(is_right, 0, 1), "confidences": np.array(confidences)}


def interval_by_bootstrap(arrays, seed=0):
    """95% interval of the mean confidence minus the accuracy, in points, by resampling images."""
    differences = arrays["confidences"] - (arrays["labels"] == arrays["predictions"])
    draws = np.random.default_rng(seed).integers(0, len(differences), (4000, len(differences)))
    return 100 * np.quantile(differences[draws].mean(1), [0.025, 0.975])


@pytest.mark.parametrize(("accuracy", "word"), [(0.8, "Overconfident"), (0.97, "Underconfident")])
def test_miscalibration_agrees_with_a_bootstrap(accuracy, word):
    draw = np.random.default_rng(0)
    confidences = draw.uniform(0.85, 0.95, 2000)
    arrays = predicted(confidences, draw.random(2000) < accuracy)
    text = calibration(arrays)
    points = 100 * abs(confidences.mean() - (arrays["predictions"] == 0).mean())
    assert text.startswith(f"{word} by {points:.1f} points (95% interval ")
    low, high = sorted(np.abs(interval_by_bootstrap(arrays)))
    stated = [float(part) for part in text.split("interval ")[1].removesuffix(").").split(" to ")]
    # wider if the images vary less than those of a calibrated model
    assert stated[0] <= low + 0.15
    assert high - 0.15 <= stated[1]
    assert stated[1] - stated[0] <= 1.8 * (high - low)


@pytest.mark.parametrize("images", [100, 1000])
def test_calibrated_predictions_are_rarely_called_miscalibrated(images):
    draw, claims = np.random.default_rng(images), 0
    for _ in range(300):
        confidences = draw.beta(40, 1, images)  # mostly above 95%, so errors are rare
        claims += bool(calibration(predicted(confidences, draw.random(images) < confidences)))
    assert claims <= 300 * 0.08  # nominally 5%


def test_no_error_among_sure_predictions_is_no_evidence_of_underconfidence():
    # one error is expected of 1,000 predictions with 99.9%, so none is no surprise
    assert calibration(predicted([0.999] * 1000, [True] * 1000)) == ""
    assert calibration(predicted([0.98] * 1000, [True] * 1000)).startswith("Underconfident by 2.0 points")


def test_ends_of_the_interval_are_possible_values_and_not_shown_as_zero():
    assert calibration(predicted([0.99] * 40, [False] * 40)).endswith(" to 100.0).")
    # 0.23 points above 0.01
    text = calibration(predicted([0.997] * 20000, np.arange(20000) >= 80))
    low = float(text.partition("interval ")[2].partition(" ")[0])
    assert text.startswith("Overconfident")
    assert 0 < low < 0.05


@pytest.mark.parametrize("confidences", [[0.6] * 10, [0.6, *[float("nan")] * 99], []])
def test_too_few_or_undefined_confidences_support_no_claim(confidences):
    assert calibration(predicted(confidences, [True] * len(confidences))) == ""


def test_calibration_of_the_best_epoch_is_stated(tmp_path):
    store = run_with(tmp_path, [[70, 30], [0, 0]], ("a", "b"))
    is_right = np.arange(100) < 70
    keep(store, "confusion_matrix", 1, name="predictions", arrays=predicted([0.99] * 100, is_right))
    assert texts(store)[1].startswith("Overconfident by 29.0 points (95% interval ")


def test_damaged_predictions_are_noted_and_support_no_claim(tmp_path):
    store = run_with(tmp_path, [[70, 30], [0, 0]], ("a", "b"))
    keep(
        store,
        "confusion_matrix",
        1,
        name="predictions",
        arrays=predicted([0.9] * 5, [True] * 4 + [False]) | {"confidences": np.zeros(3)},
    )
    material = Material(store)
    assert [sentence.section for sentence in verdict(material)] == ["confusion_matrix"]
    assert "epoch_001_predictions.npz cannot be shown" in material.damages[0]
