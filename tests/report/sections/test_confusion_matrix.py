"""Confusion matrix section."""

import re
import zlib
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

import browser
from offline_page import faults, opened
from pellucid.report import Material, write_report
from pellucid.report.sections.confusion_matrix import confusion_matrix
from pellucid.storage.store import Store
from pretended_run import CLASSES, COUNTS, keep, metrics_line, run_record


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


# --- all test images --------------------------------------------------------------------------------------------------


def outcomes(seed: int, count: int, classes: int, wrong: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    return labels, np.where(draw.random(count) < wrong, draw.integers(0, classes, count), labels)


def keep_outcomes(store: Store, epoch: int, labels: np.ndarray, predictions: np.ndarray, classes: int) -> None:
    """Keep the artifacts of an epoch, with thumbnails of the first two images of each cell."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    keep(store, "confusion_matrix", epoch, numbers={"counts": counts.tolist()})
    arrays = {"labels": labels.astype(np.int32), "predictions": predictions.astype(np.int32)}
    keep(store, "confusion_matrix", epoch, name="predictions", arrays=arrays)
    cells = labels * classes + predictions
    chosen = np.concatenate([np.flatnonzero(cells == cell)[:2] for cell in np.unique(cells)])
    numbers = {
        "indices": chosen.tolist(),
        "labels": labels[chosen].tolist(),
        "predictions": predictions[chosen].tolist(),
        "confidences": [0.5] * len(chosen),
        "lossless_size": [3, 4],
    }
    pixels = np.random.default_rng(epoch).integers(0, 256, (len(chosen), 4, 4, 1), np.uint8)
    keep(store, "confusion_matrix", epoch, name="images", arrays={"thumbnails": pixels}, numbers=numbers)


def run(folder: Path, *epochs: tuple[np.ndarray, np.ndarray], classes: int) -> Store:
    store = Store(folder)
    store.begin(run_record(tuple(f"class {number}" for number in range(classes))))
    for epoch, (labels, predictions) in enumerate(epochs):
        store.add_metrics(metrics_line(epoch))
        keep_outcomes(store, epoch, labels, predictions, classes)
    return store


def whole(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(b64decode(text)), "<i4")


def test_all_predictions_are_packed_as_differences(tmp_path):
    epochs = [outcomes(0, 400, 7), outcomes(0, 400, 7, 0.05)]
    material = Material(run(tmp_path, *epochs, classes=7))
    data = confusion_matrix(material).data
    for epoch, (labels, predictions) in enumerate(epochs):
        assert (whole(data["labels"]) + whole(data["differences"][epoch]) == predictions).all()
        assert (whole(data["labels"]) == labels).all()
    assert material.damages == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[:-1], "predictions of shape"),
        (lambda p: p - 1, "a class is not in 0…3"),
        (lambda p: p * 9, "a class is not in 0…3"),
        (lambda p: np.roll(p, 1), "differ from the counts"),
        (lambda p: p + 0.5, "int64 and float64"),
    ],
)
def test_predictions_that_contradict_the_counts_are_damaged(tmp_path, change, reason):
    labels, predictions = outcomes(0, 50, 4)
    store = run(tmp_path, (labels, predictions), classes=4)
    arrays = {"labels": labels, "predictions": change(predictions)}
    keep(store, "confusion_matrix", 0, name="predictions", arrays=arrays)
    material = Material(store)
    data = confusion_matrix(material).data
    assert (data["labels"], data["differences"]) == (None, {})
    assert len(material.damages) == 1
    assert reason in material.damages[0]


def test_images_of_several_epochs_are_packed_once(tmp_path):
    epochs = [outcomes(0, 60, 3), outcomes(1, 60, 3)]
    data = confusion_matrix(Material(run(tmp_path, *epochs, classes=3))).data
    indices = data["thumbnails"]["indices"]
    assert len(set(indices)) == len(indices)
    assert set(indices) == {int(index) for epoch in data["images"].values() for index in epoch["indices"]}
    assert data["thumbnails"]["size"] == (3, 4)


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium("--disable-gpu") as one:
        yield one


def cells(tab):
    """Return the background of each cell as RGB, and its text."""
    read = """table => [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td:not(.margin)")].map(
        (cell) => [getComputedStyle(cell).backgroundColor, cell.textContent]))"""
    rows = tab.locator("#confusion_matrix table").evaluate(read)
    # color-mix() computes to color(srgb r g b), an empty cell to rgba(0, 0, 0, 0)
    colours = np.array([[[float(part) for part in re.findall(r"[\d.]+", cell[0])[:3]] for cell in row] for row in rows])
    return colours, np.array([[int(cell[1]) for cell in row] for row in rows])


def largest(counts):
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    return (int(place) for place in np.unravel_index(errors.argmax(), errors.shape))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_errors_are_scaled_among_themselves(tmp_path, chromium, scheme):
    labels, predictions = outcomes(3, 900, 6)
    store = run(tmp_path, (labels, predictions), classes=6)
    with opened(chromium, write_report(store.folder), color_scheme=scheme) as tab:
        colours, counts = cells(tab)
        expected = np.zeros((6, 6), int)
        np.add.at(expected, (labels, predictions), 1)
        assert (counts == expected).all()
        is_error = ~np.eye(6, dtype=bool) & (counts > 0)
        # every color lies between those of the smallest and the largest error, in proportion to its count
        low, high = (colours[is_error][counts[is_error].argmin()], colours[is_error][counts[is_error].argmax()])
        span = counts[is_error].max() - counts[is_error].min()
        shares = (counts[is_error] - counts[is_error].min()) / span
        np.testing.assert_allclose(colours[is_error], low + shares[:, None] * (high - low), atol=0.01)
        assert np.abs(high - low).max() > 0.2
        legend = tab.locator("#confusion_matrix .scales").inner_text().split()
        most = counts[is_error].max()
        assert " ".join(legend) == f"0% 100% correct: share of the row 0 {most} errors: images, on their own scale"
        heads = tab.locator("#confusion_matrix th.axis").all_inner_texts()
        assert heads == ["prediction", "true class"]
        assert faults(tab, "#confusion_matrix") == []


@pytest.mark.slow
def test_largest_error_is_preselected_until_another_cell_is_selected(tmp_path, chromium):
    epochs = [outcomes(0, 300, 5, 0.5), outcomes(0, 300, 5, 0.1)]
    store = run(tmp_path, *epochs, classes=5)
    with opened(chromium, write_report(store.folder)) as tab:
        for epoch in (1, 0):
            tab.evaluate("epoch => pellucid.choose(epoch)", epoch)
            counts = cells(tab)[1]
            row, column = largest(counts)
            heading = tab.locator(".cell h3").inner_text()
            assert heading == f"class {row}, predicted as class {column}: {counts[row, column]} test images"
            assert tab.locator("#confusion_matrix [aria-selected=true]").inner_text() == str(counts[row, column])
            assert tab.locator(".cell .tiles li").count() == 2
            assert f"2 of {counts[row, column]} are shown" in tab.locator(".cell .aside").inner_text()
            assert "image=" not in tab.evaluate("location.hash")  # not selected by the reader
        tab.locator("#confusion_matrix tbody tr").nth(2).locator("td").nth(2).click()
        tab.evaluate("epoch => pellucid.choose(epoch)", 1)
        assert tab.locator(".cell h3").inner_text().startswith("class 2, correct: ")


@pytest.mark.slow
def test_every_image_of_a_cell_is_reachable(tmp_path, chromium):
    labels, predictions = outcomes(5, 1500, 4)
    store = run(tmp_path, (labels, predictions), classes=4)
    maps = {
        "maps": np.ones((1, 1, 2, 4, 4), np.int8),
        "source": np.zeros((1, 1, 4, 4), np.uint8),
        "scales": np.ones((1, 1, 2)),
    }
    numbers = {
        "indices": [3],
        "labels": [0],
        "predictions": [0],
        "methods": ["gradient"],
        "classes": [0, 1],
        "refused": {},
    }
    keep(store, "gallery", 0, arrays=maps, numbers=numbers)
    with opened(chromium, write_report(store.folder)) as tab:
        for row, column in ((1, 2), (3, 3)):
            tab.locator("#confusion_matrix tbody tr").nth(row).locator("td").nth(column).click()
            inside = np.flatnonzero((labels == row) & (predictions == column)).tolist()
            details = tab.locator(".cell details")
            assert details.locator("summary").inner_text() == f"All {len(inside)} test images of this cell, by index"
            details.locator("summary").click()
            details.locator("a").first.wait_for()
            if len(inside) > 200:
                assert details.locator("a").count() == 200
                details.get_by_role("button", name=f"Show all {len(inside)}").click()
            links = details.locator("a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
            assert links == [f"#explain&image={index}" for index in inside]
            tiles = tab.locator(".cell .tiles a").evaluate_all(
                "links => links.map((link) => link.getAttribute('href'))"
            )
            assert tiles == links[:2]
        links = tab.locator(".cell .tiles a")
        links.first.click()
        browser.until(tab, lambda: tab.evaluate("pellucid.place.section") == "explain")
        assert tab.evaluate("pellucid.place.image") == inside[0]


@pytest.mark.slow
def test_address_restores_the_cell(tmp_path, chromium):
    epochs = [outcomes(0, 300, 5, 0.5), outcomes(0, 300, 5, 0.1)]
    report = write_report(run(tmp_path, *epochs, classes=5).folder)
    with opened(chromium, report, viewport={"width": 390, "height": 844}, has_touch=True) as tab:
        tab.evaluate("pellucid.go({section: 'confusion_matrix', epoch: 0})")
        tab.locator("#confusion_matrix tbody tr").nth(4).locator("td").nth(1).tap()
        place = tab.evaluate("location.hash")
        labels, predictions = epochs[0]
        index = int(np.flatnonzero((labels == 4) & (predictions == 1))[0])
        assert place == f"#confusion_matrix&epoch=0&image={index}"
        tab.reload()
        heading = tab.locator(".cell h3")
        browser.until(
            tab, lambda: heading.count() and heading.inner_text().startswith("class 4, predicted as class 1: ")
        )
        selected = tab.locator("#confusion_matrix [aria-selected=true]")
        assert selected.evaluate("cell => cell.getBoundingClientRect().right <= innerWidth")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert faults(tab, "#confusion_matrix") == []
        # an image that no thumbnail shows
        last = int(np.flatnonzero((labels == 4) & (predictions == 1))[-1])
        tab.evaluate("image => pellucid.go({section: 'confusion_matrix', image})", last)
        assert heading.inner_text().startswith("class 4, predicted as class 1: ")
        tab.evaluate("pellucid.go({section: 'confusion_matrix', class: 3})")
        row = cells(tab)[1][3]
        row[3] = -1
        browser.until(tab, lambda: heading.inner_text().startswith(f"class 3, predicted as class {row.argmax()}: "))


@pytest.mark.slow
def test_pixels_without_their_padding_are_offered(tmp_path, chromium):
    labels, predictions = outcomes(0, 40, 2)
    store = run(tmp_path, (labels, predictions), classes=2)
    data = confusion_matrix(Material(store)).data["thumbnails"]
    index = data["indices"][-1]
    square = np.frombuffer(zlib.decompress(b64decode(data["bytes"])), np.uint8).reshape(-1, 4, 4)[-1]
    with opened(chromium, write_report(store.folder)) as tab:
        found = tab.evaluate("index => pellucid.findImage(index).then(one => ({...one, bytes: [...one.bytes]}))", index)
        assert found["size"] == [3, 4]
        assert found["bytes"] == square[:3].ravel().tolist()  # one row of padding: none above, one below
        assert found["isExact"] is True
        assert (found["label"], found["prediction"]) == (labels[index], predictions[index])


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_any_number_of_classes_and_no_errors(tmp_path, chromium, classes):
    labels = np.arange(2000) % classes
    predictions = np.where(np.arange(2000) < 400, (labels + 1) % classes, labels)
    store = run(tmp_path, (labels, predictions), (labels, labels), classes=classes)
    with opened(chromium, write_report(store.folder), viewport={"width": 390, "height": 844}) as tab:
        assert tab.locator(".cell").inner_text() == "No misclassified test images in epoch 1."
        tab.evaluate("pellucid.choose(0)")
        counts = cells(tab)[1]
        if classes == 1:
            assert tab.locator(".cell").inner_text() == "No misclassified test images in epoch 0."
        else:
            row, column = largest(counts)
            shown = confusion_matrix(Material(store)).data["numbers"]
            heading = f"class {shown[row]}, predicted as class {shown[column]}: {counts[row, column]} test image"
            assert tab.locator(".cell h3").inner_text().startswith(heading)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
