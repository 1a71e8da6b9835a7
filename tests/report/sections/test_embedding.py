"""Embedding section: its data, and its behavior in the browser."""

import io
import json
import zlib
from base64 import b64decode
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

import browser
from offline_page import faults, opened
from pellucid.core.contracts import Artifact
from pellucid.plots.colours import class_colours
from pellucid.report import Material, write_report
from pellucid.report.sections.embedding import STEPS, _loss_range, embedding
from pellucid.storage.store import Store

CLASSES = ["cat", "dog", "<script>owl"]
PAD = 20
"""Padding around the points in pixels, as in embedding.js."""
SCORES = {"trustworthiness": 0.987, "knn_accuracy": 0.75, "knn_accuracy_embedding": 0.875}
FIRST = {
    "indices": [30, 10, 20, 40],
    "labels": [2, 0, 1, 0],
    "predictions": [2, 0, 2, 0],
    "confidences": [0.9, 0.8123, 0.6, 1.0],
    "losses": [0.1054, 0.2078, 3.5, 0.0],
}
POINTS = np.array([[10.0, 0.0], [-10.0, 0.0], [0.0, 8.0], [0.0, -8.0]])
LAST = {**FIRST, "indices": [30, 10, 20, 50], "predictions": [2, 1, 1, 0]}
LAST_POINTS = np.array([[-4.0, -8.0], [6.0, 5.0], [0.0, 8.0], [-10.0, 4.0]])
NEIGHBORS = np.array([[1, 2], [0, 3], [3, 1], [2, 1]], np.int32)
THUMBNAILS = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 1), np.uint8)


WATCH = """() => { window.seen = []; const canvas = document.querySelector('#embedding canvas');
new MutationObserver(() => seen.push(canvas.dataset.moving)).observe(canvas, {attributeFilter: ['data-moving']}); }"""
"""Records whether the plane moves."""


def keep(folder: Path, epoch: int, points: np.ndarray, lists: dict[str, Any], **arrays: np.ndarray) -> None:
    store = Store(folder)
    store.begin({"status": "finished", "dataset": {"title": "Pets", "classes": CLASSES}})
    store.add_metrics({"epoch": epoch})
    artifact = Artifact(caption="points", arrays={"points": points, **arrays}, numbers={**lists, **SCORES})
    store.keep(store.pack("tsne", epoch, artifact, None))


def columns(data: dict[str, Any], epoch: int | str) -> dict[str, np.ndarray]:
    """Unpack an epoch of the section's data, as the page does."""
    record = data["epochs"][epoch]
    content, count = zlib.decompress(b64decode(record["packed"])), record["count"]
    assert len(content) == 4 * count * (6 + record["neighbors"])
    names = ["rows", "x", "y", "predictions", *range(record["neighbors"]), "confidences", "losses"]
    kinds = ["<f4" if name in ("confidences", "losses") else "<i4" for name in names]
    parts = {
        n: np.frombuffer(content, k, count, 4 * count * i) for i, (n, k) in enumerate(zip(names, kinds, strict=True))
    }
    near = [parts.pop(rank) for rank in range(record["neighbors"])]
    return {**parts, "neighbors": np.stack(near, 1) if near else np.zeros((count, 0), int)}


def made(folder: Path) -> tuple[Any, Material]:
    material = Material(Store(folder))
    return embedding(material), material


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(tmp_path, 0, POINTS, FIRST, thumbnails=THUMBNAILS, neighbors=NEIGHBORS)
    keep(tmp_path, 3, LAST_POINTS, LAST, thumbnails=THUMBNAILS, neighbors=NEIGHBORS)
    return tmp_path


def test_positions_share_one_scale(folder: Path) -> None:
    section, material = made(folder)
    for epoch, points in ((0, POINTS), (3, LAST_POINTS)):
        shown = columns(section.data, epoch)
        places = np.stack([shown["x"], shown["y"]], 1) / STEPS  # the longer side is x, −10…10; y is in −8…8
        np.testing.assert_allclose((places - 0.5) * 20 * (1, -1), points, atol=20 / STEPS)
    assert material.damages == []


def test_images_keep_their_rows_across_epochs(folder: Path) -> None:
    data = made(folder)[0].data
    assert data["images"] == {"indices": [10, 20, 30, 40, 50], "labels": [0, 1, 2, 0, 0]}
    first, last = columns(data, 0), columns(data, 3)
    assert first["rows"].tolist() == [2, 0, 1, 3]
    assert last["rows"].tolist() == [2, 0, 1, 4]
    assert last["predictions"].tolist() == LAST["predictions"]
    np.testing.assert_allclose(first["confidences"], FIRST["confidences"], rtol=1e-6)
    np.testing.assert_allclose(first["losses"], FIRST["losses"], rtol=1e-6)
    assert {name: data["epochs"][0][name] for name in SCORES} == SCORES


def test_neighbors_are_rows_of_the_images(folder: Path) -> None:
    shown = columns(made(folder)[0].data, 3)
    images = np.array([10, 20, 30, 40, 50])
    named = dict(zip(images[shown["rows"]].tolist(), images[shown["neighbors"]].tolist(), strict=True))
    assert named == {30: [10, 20], 10: [30, 50], 20: [50, 10], 50: [20, 10]}


def test_thumbnails_are_lossless(folder: Path) -> None:
    data = made(folder)[0].data
    pictures = data["thumbnails"]
    assert data["has_images"] is True
    assert pictures["indices"] == [10, 20, 30, 40, 50]
    assert (pictures["side"], pictures["channels"], pictures["size"]) == (5, 1, None)
    pixels = np.frombuffer(zlib.decompress(b64decode(pictures["bytes"])), np.uint8).reshape(5, 5, 5, 1)
    np.testing.assert_array_equal(pixels, THUMBNAILS[[1, 2, 0, 3, 3]])


@pytest.mark.parametrize(("size", "is_exact"), [([5, 5], True), ([4, 5], True), ([6, 6], False), ([4, 4], False)])
def test_exact_pixels_are_distinguished_from_downsampled_ones(tmp_path: Path, size: list[int], is_exact: bool) -> None:
    keep(tmp_path, 0, POINTS, {**FIRST, "lossless_size": size}, thumbnails=THUMBNAILS)
    section, material = made(tmp_path)
    assert (section is not None) == is_exact  # a size that cannot be is a damage
    assert len(material.damages) == (not is_exact)
    if section is not None:
        assert section.data["thumbnails"]["size"] == tuple(size)


def test_losses_of_old_runs_are_derived(tmp_path: Path) -> None:
    old = {name: values for name, values in FIRST.items() if name != "losses"}
    keep(tmp_path, 0, POINTS, old)
    keep(tmp_path, 1, POINTS, old)
    losses = np.arange(60, dtype=np.float32) / 10
    artifact = Artifact(caption="all", name="predictions", arrays={"losses": losses})
    Store(tmp_path).keep(Store(tmp_path).pack("confusion_matrix", 1, artifact, None))
    section, material = made(tmp_path)
    assert material.damages == []
    expected = [-np.log(0.9), -np.log(0.8123), np.nan, 0.0]  # image 20 is misclassified
    np.testing.assert_allclose(columns(section.data, 0)["losses"], expected, rtol=1e-6)
    np.testing.assert_allclose(columns(section.data, 1)["losses"], losses[FIRST["indices"]], rtol=1e-6)
    assert section.notes[1] == "Epoch 0 has no losses of misclassified images."


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.02, 0.3, 4.21], (0.01, 4.3)),
        ([1e-9, 1e-8, 2.0], (1e-4, 2.0)),
        ([np.nan, 0.5], (0.1, 0.5)),
        ([1e-7], (1e-8, 1e-7)),
        ([np.nan], None),
        ([0.0, np.inf], None),
    ],
)
def test_loss_scale_covers_the_losses(losses: list[float], expected: tuple[float, float] | None) -> None:
    found = _loss_range(np.array(losses))
    assert found == (None if expected is None else pytest.approx(expected))


def test_colors_match_the_other_figures(folder: Path) -> None:
    assert made(folder)[0].data["colours"] == [to_hex(colour) for colour in class_colours(3)]


def test_run_without_thumbnails_and_confidences_is_shown(tmp_path: Path) -> None:
    keep(tmp_path, 0, POINTS, {name: FIRST[name] for name in ("indices", "labels", "predictions")})
    section, material = made(tmp_path)
    assert section.data["thumbnails"] is None
    assert section.data["has_images"] is False
    assert section.data["confidence_range"] is section.data["loss_range"] is None
    assert np.isnan(columns(section.data, 0)["confidences"]).all()
    assert section.notes[1:] == ("This run has no confidences.",)
    assert "no thumbnails" in section.notes[0]
    assert material.damages == []


def test_epochs_without_confidences_are_named(folder: Path) -> None:
    keep(folder, 2, POINTS, {**FIRST, "confidences": None}, thumbnails=THUMBNAILS)
    assert made(folder)[0].notes == ("Epoch 2 has no confidences.",)


@pytest.mark.parametrize(
    ("points", "lists", "reason"),
    [
        (POINTS[:3], {}, "3 points but 4 indices"),
        (POINTS * np.nan, {}, "not finite 2D positions"),
        (POINTS[:, :1], {}, "not finite 2D positions"),
        (POINTS, {"predictions": [0, 0, -1, 0]}, "negative"),
        (POINTS, {"confidences": [0.5]}, "4 points but 1 confidences"),
        (POINTS, {"labels": None}, "TypeError"),
        (POINTS, {"losses": [0.5]}, "4 points but 1 losses"),
        (POINTS, {"indices": [30, 10, 20, 20]}, "an image occurs twice"),
    ],
)
def test_damaged_epoch_is_omitted_and_listed(
    folder: Path, points: np.ndarray, lists: dict[str, Any], reason: str
) -> None:
    keep(folder, 5, points, {**FIRST, **lists})
    section, material = made(folder)
    assert list(section.data["epochs"]) == [0, 3]
    assert [reason in damage and "tsne/epoch_005" in damage for damage in material.damages] == [True]


@pytest.mark.parametrize(
    ("neighbors", "reason"),
    [
        (NEIGHBORS[:3], "neighbors have dtype int32 and shape (3, 2)"),
        (NEIGHBORS.astype(float), "neighbors have dtype float64"),
        (NEIGHBORS + 1, "a neighbor is not one of the points"),
        (NEIGHBORS - 1, "a neighbor is not one of the points"),
    ],
)
def test_damaged_neighbors_are_listed(tmp_path: Path, neighbors: np.ndarray, reason: str) -> None:
    keep(tmp_path, 0, POINTS, FIRST, neighbors=neighbors)
    section, material = made(tmp_path)
    assert section is None
    assert reason in material.damages[0]


def test_invalid_thumbnails_are_listed(tmp_path: Path) -> None:
    keep(tmp_path, 0, POINTS, FIRST, thumbnails=THUMBNAILS.astype(np.float32))
    Store(tmp_path).begin({"status": "running"})
    section, material = made(tmp_path)
    assert section is None
    assert "thumbnails have dtype float32" in material.damages[0]


def test_run_without_points_has_no_section(tmp_path: Path) -> None:
    Store(tmp_path).begin({"status": "running"})
    section, material = made(tmp_path)
    assert section is None
    assert material.damages == []


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as one:
        yield one


@pytest.fixture
def page(folder: Path, chromium: Any) -> Iterator[Any]:
    with shown(chromium, folder) as tab:
        yield tab


def shown(chromium: Any, folder: Path, **options: Any) -> AbstractContextManager[Any]:
    return opened(chromium, write_report(folder), **options)


class Plane:
    """The canvas of a page."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.canvas = tab.locator("#embedding .stage > canvas")
        self.canvas.evaluate("canvas => canvas.scrollIntoView({block: 'start', behavior: 'instant'})")
        self.data = json.loads(tab.locator("#data-embedding").text_content())
        tab.wait_for_selector("#embedding canvas[data-epoch]")

    def inside(self, index: int, epoch: int, zoom: float = 1) -> tuple[float, float]:
        """Return the position of a test image, in CSS pixels of the canvas."""
        shown, side = columns(self.data, str(epoch)), self.canvas.bounding_box()["width"]
        point = shown["rows"].tolist().index(self.data["images"]["indices"].index(index))
        return tuple(side / 2 + (shown[axis][point] / STEPS - 0.5) * zoom * (side - 2 * PAD) for axis in ("x", "y"))  # type: ignore[return-value]

    def at(self, index: int, epoch: int, zoom: float = 1) -> tuple[float, float]:
        """Return the position of a test image in the window."""
        box = self.canvas.bounding_box()
        x, y = self.inside(index, epoch, zoom)
        return box["x"] + x, box["y"] + y

    def card(self) -> str:
        card = self.tab.locator("#embedding .card")
        return " ".join(card.locator("strong, span").all_text_contents()) if card.is_visible() else ""

    def hover(self, index: int, epoch: int, zoom: float = 1) -> str:
        self.tab.mouse.move(*self.at(index, epoch, zoom))
        return self.card()

    def pixels(self) -> np.ndarray:
        """Return the canvas as (y, x, 4) bytes, via a data URL because browsers warn about repeated `getImageData`."""
        uri = self.canvas.evaluate("canvas => canvas.toDataURL()")
        return np.asarray(Image.open(io.BytesIO(b64decode(uri.partition(",")[2]))).convert("RGBA")).astype(int)

    def pixel(self, x: float, y: float) -> list[int]:
        return list(self.pixels()[round(y), round(x)])

    def settle(self, epoch: int) -> None:
        self.tab.wait_for_selector(f'#embedding canvas[data-epoch="{epoch}"][data-moving="false"]')


def bytes_of(colour: str) -> np.ndarray:
    return np.rint(np.array(to_rgb(colour)) * 255)


@pytest.mark.slow
def test_hovering_over_a_dot_shows_its_image(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    assert plane.hover(20, 3) == "dog correct confidence 60.0% loss 3.5 test image 20"
    assert plane.hover(10, 3) == "cat predicted as dog confidence 81.2% loss 0.21 test image 10"
    assert plane.hover(30, 3) == "<script>owl correct confidence 90.0% loss 0.11 test image 30"
    thumbnail = page.locator("#embedding .card canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 5, 5).data].filter((_, i) => i % 4 === 0)"
    )
    assert thumbnail == THUMBNAILS[0].flatten().tolist()
    box = plane.canvas.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] - 4)
    assert plane.card() == ""


@pytest.mark.slow
def test_epoch_changes_are_animated(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    page.mouse.click(*plane.at(10, 3))  # pinned, so that the card follows
    page.evaluate(WATCH)
    page.locator("#epoch").fill("0")
    plane.settle(0)
    moving = page.evaluate("seen")
    assert moving.count("true") > 3
    assert moving[-1] == "false"
    assert plane.card() == "cat correct confidence 81.2% loss 0.21 test image 10"
    plane.canvas.press("Escape")
    assert plane.hover(30, 0) == "<script>owl correct confidence 90.0% loss 0.11 test image 30"
    assert plane.hover(40, 0) == "cat correct confidence 100.0% loss 0 test image 40"
    assert plane.hover(50, 3) == ""  # image 50 is not in epoch 0
    np.testing.assert_allclose(plane.pixel(*plane.inside(50, 3))[3], 0)


@pytest.mark.slow
def test_reduced_motion_disables_the_animation(folder: Path, chromium: Any) -> None:
    with shown(chromium, folder, reduced_motion="reduce") as tab:
        plane = Plane(tab)
        tab.evaluate(WATCH)
        tab.locator("#epoch").fill("0")
        plane.settle(0)
        assert "true" not in tab.evaluate("seen")
        assert plane.hover(10, 0) == "cat correct confidence 81.2% loss 0.21 test image 10"


@pytest.mark.slow
def test_errors_have_rings_in_the_color_of_the_prediction(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    ring = 9 * 2.1
    colours = plane.data["colours"]
    wrong, right = plane.inside(10, 3), plane.inside(50, 3)
    pixels = plane.pixels()
    around = [[pixels[round(y - ring) + step, round(x)] for step in (-1, 0, 1)] for x, y in (wrong, right)]
    assert any(np.allclose(pixel, [*bytes_of(colours[1]), 255], atol=12) for pixel in around[0])
    assert all(pixel[3] == 0 for pixel in around[1])
    np.testing.assert_allclose(pixels[round(wrong[1]), round(wrong[0])], [*bytes_of(colours[0]), 0.85 * 255], atol=3)


@pytest.mark.slow
def test_keyboard_navigation(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    plane.canvas.focus()
    for key, index in [
        ("PageDown", 10),
        ("PageDown", 20),
        ("PageUp", 10),
        ("PageUp", 50),
        ("ArrowDown", 30),
        ("ArrowRight", 10),
        ("ArrowLeft", 20),
    ]:
        page.keyboard.press(key)
        assert plane.card().endswith(f"test image {index}"), key
    page.keyboard.press("Enter")
    page.mouse.move(*plane.at(30, 3))
    assert plane.card().endswith("test image 20")  # pinned
    assert "pinned" in page.locator("#embedding .card").get_attribute("class")
    page.keyboard.press("Escape")
    assert plane.card() == ""


@pytest.mark.slow
def test_filters_for_classes_and_errors(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    page.get_by_role("button", name="dog", exact=True).click()
    assert plane.hover(20, 3) != ""
    assert plane.hover(10, 3) == ""
    assert plane.pixel(*plane.inside(50, 3))[3] == pytest.approx(0.1 * 255, abs=3)
    page.get_by_role("button", name="Show all").click()
    errors = page.get_by_role("button", name="Errors only (1)")
    errors.click()
    assert errors.get_attribute("aria-pressed") == "true"
    assert plane.hover(20, 3) == ""
    assert plane.hover(10, 3) != ""


@pytest.mark.slow
def test_zoom_and_pan(page: Any) -> None:
    plane = Plane(page)
    plane.settle(3)
    page.get_by_role("button", name="Zoom in").click()
    assert plane.hover(10, 3, zoom=1.5).endswith("test image 10")
    x, y = plane.at(10, 3, zoom=1.5)
    page.mouse.down()
    page.mouse.move(x - 10, y - 10)
    page.mouse.move(x - 30, y - 20)
    page.mouse.up()
    page.mouse.move(x - 30, y - 20)
    assert plane.card().endswith("test image 10")
    page.get_by_role("button", name="Reset zoom").click()
    assert plane.hover(20, 3).endswith("test image 20")


@pytest.mark.slow
def test_wheel_zooms_only_when_focused(page: Any) -> None:
    plane = Plane(page)
    everything = page.get_by_role("button", name="Reset zoom")
    page.mouse.move(*plane.at(20, 3))
    page.mouse.wheel(0, -40)
    page.wait_for_timeout(200)
    assert everything.is_disabled()  # the page scrolled instead
    plane.canvas.focus()
    page.mouse.move(*plane.at(20, 3))
    page.mouse.wheel(0, -40)
    browser.until(page, everything.is_enabled)
    assert plane.card().endswith("test image 20")  # the point under the pointer stays fixed


@pytest.mark.slow
def test_summary_and_table_describe_the_plot(page: Any) -> None:
    plane = Plane(page)
    assert plane.canvas.get_attribute("aria-label") == "Epoch 3: t-SNE of 4 test images, 3 correct (75.0%)"
    summary = page.locator("#embedding .summary").inner_text()
    assert "Trustworthiness 98.7%" in summary
    assert "accuracy: 75.0% in this plane, and 87.5% in the original embedding" in summary
    table = page.locator("#embedding table")
    assert table.locator("tbody td").all_text_contents() == ["10", "cat", "dog", "81.2%", "0.21"]
    table.get_by_role("button", name="Show test image 10").click()
    assert plane.card().endswith("test image 10")


@pytest.mark.slow
def test_page_without_thumbnails(tmp_path: Path, chromium: Any) -> None:
    keep(tmp_path, 0, POINTS, {name: FIRST[name] for name in ("indices", "labels", "predictions")})
    with shown(chromium, tmp_path) as tab:
        plane = Plane(tab)
        assert plane.hover(20, 0) == "dog predicted as <script>owl test image 20"
        assert tab.locator("#embedding .card canvas").count() == 0
        assert "no thumbnails" in tab.locator("#embedding .aside").first.inner_text()


@pytest.mark.slow
def test_tap_pins_a_card_on_a_phone(folder: Path, chromium: Any) -> None:
    phone = {"width": 390, "height": 844}
    with shown(chromium, folder, viewport=phone, has_touch=True, device_scale_factor=2) as tab:
        plane = Plane(tab)
        plane.settle(3)
        tab.touchscreen.tap(*plane.at(30, 3))
        assert plane.card().endswith("test image 30")
        assert plane.canvas.evaluate("canvas => canvas.width / canvas.clientWidth") == pytest.approx(2, abs=0.01)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_colors_follow_the_scheme_and_page_is_accessible(folder: Path, chromium: Any) -> None:
    with shown(chromium, folder, color_scheme="light") as tab:
        plane = Plane(tab)
        plane.settle(3)
        light = plane.canvas.evaluate("canvas => canvas.toDataURL()")
        assert faults(tab, "#embedding") == []
        tab.emulate_media(color_scheme="dark")
        browser.until(tab, lambda: plane.canvas.evaluate("canvas => canvas.toDataURL()") != light)
        assert faults(tab, "#embedding") == []
