"""Confusion matrix section."""

import numpy as np

from pellucid.report import Material
from pellucid.report.sections.confusion_matrix import confusion_matrix
from pellucid.storage.store import Store
from pretended_run import CLASSES, COUNTS, keep, run_record


def test_counts_and_sums_match_the_run(store):
    section = confusion_matrix(Material(store))
    assert section.data["classes"] == list(CLASSES)
    matrix = section.data["matrices"][1]
    assert np.array_equal(matrix["counts"], COUNTS[1])
    assert (matrix["truths"].tolist(), matrix["predictions"].tolist()) == ([4, 5, 6], [5, 7, 3])
    assert (matrix["right"], matrix["images"]) == (9, 15)
    assert section.notes == ()


def test_example_images_have_their_cells(store):
    kept = confusion_matrix(Material(store)).data["images"][2]
    assert kept["labels"].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert kept["predictions"].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert kept["indices"].tolist() == list(range(100, 109))


def test_run_without_example_images_says_so(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record())
    keep(store, "confusion_matrix", 0, numbers={"counts": COUNTS[0]})
    section = confusion_matrix(Material(store))
    assert section.data["images"] == {}
    assert section.notes == ("This run has no example images for the cells.",)


def test_lists_of_other_lengths_are_listed_as_damaged(store):
    path = store.folder / "plots/confusion_matrix/epoch_001_images.json"
    path.write_text(path.read_text().replace('"confidences": [0.5, ', '"confidences": ['))
    material = Material(store)
    assert list(confusion_matrix(material).data["images"]) == [0, 2]
    (damage,) = material.damages
    assert damage.startswith("plots/confusion_matrix/epoch_001_images.npz cannot be shown: ")
    assert damage.endswith("the number of values differs from the number of images.")


def test_classes_with_the_most_errors_are_shown(tmp_path):
    counts = np.diag(np.full(300, 9))
    counts[5, 290] = 7
    names = tuple(f"class {number}" for number in range(300))
    store = Store(tmp_path)
    store.begin(run_record(names))
    keep(store, "confusion_matrix", 0, numbers={"counts": counts.tolist()})
    section = confusion_matrix(Material(store))
    assert len(section.data["classes"]) == 30
    assert {"class 5", "class 290"} <= set(section.data["classes"])
    assert section.notes[0].startswith("Shows the 30 of 300 classes with the most errors")
    assert section.data["matrices"][0]["images"] == 300 * 9 + 7


def test_unnamed_classes_show_their_index(store):
    counts = np.eye(5, dtype=int).tolist()
    keep(store, "confusion_matrix", 2, numbers={"counts": counts})
    assert confusion_matrix(Material(store)).data["classes"] == [*CLASSES, "3", "4"]
