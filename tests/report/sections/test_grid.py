"""Grids of images and maps: their data, and their behavior in the browser."""

import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import browser
from offline_page import faults, opened
from pellucid.core.contracts import Artifact
from pellucid.plots.colours import scale_limit, signed_norm, signed_palette
from pellucid.report import Material, _tiles, write_report
from pellucid.report.sections.figures import other_figures
from pellucid.report.sections.grid import grid
from pellucid.storage.store import Store
from pretended_run import png

CLASSES = ["cat", "dog", '<b>a "bird" with a very long name of 40 characters']
FOCUSED = "() => document.activeElement.ariaLabel"
HEIGHT, WIDTH = 6, 4
ROWS = ("baseline", "saliency", "delta", "overlay")
LIMITS = {"gradient": 1.5, "overlay": 0.7}
GONE = {"labels": [0, 1, 2], "predictions": [0, 2, 2], "indices": [7, 11, 13]}
"""Image 11, a dog, is misclassified."""


def saliency(epoch: int, size: tuple[int, int] = (HEIGHT, WIDTH), channels: int = 1) -> dict[str, Any]:
    draw = np.random.default_rng(epoch)
    arrays = {name: draw.normal(size=(3, channels, *size)).astype(np.float32) for name in ROWS}
    # a digit: bright in the middle, on black
    source = np.zeros((3, channels, *size), np.float32)
    source[..., size[0] // 3 : -(size[0] // 3), 1:-1] = 0.9
    numbers = {"classes": CLASSES, **GONE, "scale_limits": LIMITS}
    return {"arrays": {"source": source, **arrays}, "numbers": numbers}


def jacobian_classes(epoch: int, counts: tuple[int, ...] = (4, 5, 6)) -> dict[str, Any]:
    means = np.random.default_rng(epoch).random((3, 3, 1, HEIGHT, WIDTH)).astype(np.float32)
    numbers = {
        "classes": CLASSES,
        "drawn_classes": [0, 1, 2],
        "counts": list(counts),
        "spectral_norms": [1.0, 2.0, 2.0, 5.0],
        "class_median_spectral_norm": [2.0 if count else None for count in counts],
    }
    return {"arrays": {"mean_absolute_jacobian": means}, "numbers": numbers}


def prototypes() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    numbers = {
        "classes": [0, 1, 2],
        "names": CLASSES,
        "ways": {"l2": {"log_probability": [-0.5, -12.3, -0.00001]}},
        "class_mean": {"log_probability": [-0.1, None, -0.2]},
        "refused": {"expert": "it needs pixels"},
    }
    images = draw.random((1, 3, 3, HEIGHT, WIDTH)).astype(np.float32)
    return {"arrays": {"images": images, "class_means": images[0] / 2}, "numbers": numbers}


def keep(folder: Path, hook: str, epoch: int, **parts: Any) -> None:
    store = Store(folder)
    store.keep(store.pack(hook, epoch, Artifact(caption=f"Pets, epoch {epoch}: {hook}", **parts), png()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin(tmp_path)
    return tmp_path


def begin(folder: Path) -> None:
    Store(folder).begin({"status": "finished", "dataset": {"title": "Pets", "classes": CLASSES}})
    for epoch in (0, 1):
        Store(folder).add_metrics({"epoch": epoch, "best": True})


def made(folder: Path, hook: str, **changes: Any) -> Any:
    section = grid(hook)(Material(Store(folder), **changes))
    assert section is not None
    return section


def tile(section: Any, epoch: int, place: tuple[int, int], sheet: int = 0) -> np.ndarray:
    """Decode a tile as the page does: map values, or bytes of an image (height, width, channel)."""
    frame, size = section.data["sheets"][sheet]["frames"][epoch], tuple(section.data["size"])
    for block in frame["blocks"]:
        row, column = place[0] - block["row"], place[1] - block["column"]
        if 0 <= row < block["shape"][0] and 0 <= column < block["shape"][1]:
            content = zlib.decompress(b64decode(section.data["pool"][block["bytes"]]))
            if block["channels"]:
                return np.frombuffer(content, np.uint8).reshape(*block["shape"], *size, -1)[row, column]
            values = np.frombuffer(content, np.int8).reshape(*block["shape"], *size)[row, column].astype(float)
            return np.where(values == -128, np.nan, values * block["scales"][row][column] / 127)
    raise AssertionError(place)


def test_tiles_equal_the_arrays_up_to_the_quantization_step(folder: Path) -> None:
    for epoch in (0, 1):
        keep(folder, "saliency", epoch, **saliency(epoch))
    section = made(folder, "saliency")
    for epoch in (0, 1):
        arrays = saliency(epoch)["arrays"]
        for row, name in enumerate(ROWS):
            for column in range(3):
                expected = arrays[name][column, 0]
                step = np.abs(expected).max() / 127
                assert np.abs(tile(section, epoch, (1 + row, column)) - expected).max() <= 0.5001 * step
        assert tile(section, epoch, (0, 1))[..., 0].tolist() == np.rint(arrays["source"][1, 0] * 255).tolist()
    frame = section.data["sheets"][0]["frames"][0]
    assert [block.get("limits") for block in frame["blocks"]] == [None, [1.5], [0.7]]
    assert frame["columns"][1] == {
        "text": "dog",
        "detail": f"→ {CLASSES[2]}",
        "wrong": True,
        "place": {"image": 11, "class": 1},
    }
    assert frame["rows"][2]["place"] == {"method": "gradient"}
    assert frame["caption"] == "Pets, epoch 0: saliency"
    # the images are the same at both epochs, and stored once
    assert len(section.data["pool"]) == 5


def test_channels_of_maps_are_summed_and_images_stay_in_color(folder: Path) -> None:
    keep(folder, "saliency", 0, **saliency(0, channels=3))
    section = made(folder, "saliency")
    expected = saliency(0, channels=3)["arrays"]["delta"].sum(1)[2]
    assert np.allclose(tile(section, 0, (3, 2)), expected, atol=np.abs(expected).max() / 253)
    assert tile(section, 0, (0, 0)).shape == (HEIGHT, WIDTH, 3)
    assert "Maps are summed over channels." in section.data["sheets"][0]["frames"][0]["notes"]


def test_large_images_are_averaged_and_the_page_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(folder, "saliency", 0, **saliency(0, size=(192, 96)))
    section = made(folder, "saliency")
    assert section.data["size"] == (96, 48)
    assert section.notes == ("Tiles are downsampled from 192×96 to 96×48 pixels by averaging areas.",)
    expected = saliency(0, size=(192, 96))["arrays"]["delta"][1, 0].reshape(96, 2, 48, 2).mean((1, 3))
    assert np.allclose(tile(section, 0, (3, 1)), expected, atol=np.abs(expected).max() / 253)
    # 15 tiles
    monkeypatch.setattr(_tiles, "MOST_VALUES", 15 * 24 * 12)
    assert made(folder, "saliency").data["size"] == (24, 12)
    assert made(folder, "saliency", scale=0.5).data["size"] == (12, 6)


def test_diverged_maps_are_marked_as_not_finite(folder: Path) -> None:
    parts = saliency(0)
    parts["arrays"]["saliency"][0] = np.nan
    parts["arrays"]["delta"][1, 0, 2, 3] = np.inf
    keep(folder, "saliency", 0, **parts)
    section = made(folder, "saliency")
    assert np.isnan(tile(section, 0, (2, 0))).all()
    shown = tile(section, 0, (3, 1))
    assert np.isnan(shown).sum() == 1
    assert np.isnan(shown[2, 3])


def test_switch_joins_both_jacobians_by_class(folder: Path) -> None:
    keep(folder, "jacobian_classes", 0, **jacobian_classes(0))
    keep(folder, "jacobian_classes", 1, **jacobian_classes(1, counts=(4, 0, 6)))
    keep(folder, "jacobian_classes_all", 1, **jacobian_classes(2))
    section = made(folder, "jacobian_classes")
    sheets = section.data["sheets"]
    assert [sheet["label"] for sheet in sheets] == ["Sample by epoch", "All test images"]
    assert [list(sheet["frames"]) for sheet in sheets] == [[0, 1], [1]]
    assert sheets[1]["moment"] == "Computed at the end of training with the best checkpoint (epoch 1)."
    means = jacobian_classes(2)["arrays"]["mean_absolute_jacobian"].sum(2)
    assert np.allclose(tile(section, 1, (2, 1), sheet=1), means[2, 1], atol=means.max() / 253)
    assert sheets[1]["frames"][1]["blocks"][0]["limits"] == [pytest.approx(scale_limit(means), rel=1e-5)]
    # no image of class 1
    assert np.isnan(tile(section, 1, (1, 0))).all()
    assert sheets[0]["frames"][1]["rows"][1]["detail"] == "no images"
    spread = sheets[0]["frames"][0]["spread"]
    assert (sum(spread["counts"]), spread["low"], spread["high"], spread["median"]) == (4, 1.0, 5.0, 2.0)
    assert other_figures(Material(Store(folder)), section.hook) == []


def test_figures_of_a_hook_without_arrays_are_kept_beside_the_other(folder: Path) -> None:
    keep(folder, "jacobian_classes", 0, **jacobian_classes(0))
    keep(folder, "jacobian_classes_all", 1)
    section = made(folder, "jacobian_classes")
    assert [sheet["hook"] for sheet in section.data["sheets"]] == ["jacobian_classes"]
    (other,) = other_figures(Material(Store(folder)), section.hook)
    assert (other.name, other.kind) == ("hook-jacobian_classes_all", "figures")


def test_prototypes_have_captions_and_omit_missing_class_means(folder: Path) -> None:
    keep(folder, "prototypes", 1, **prototypes())
    section = made(folder, "prototypes")
    frame = section.data["sheets"][0]["frames"][1]
    assert frame["captions"] == [["−0.50", "−12", "−0.00001"], ["−0.10", None, "−0.20"]]
    assert [column["place"] for column in frame["columns"]] == [{"class": 0}, {"class": 1}, {"class": 2}]
    assert "Not applicable: expert." in frame["notes"]


@pytest.mark.parametrize(
    "damage",
    [
        {"labels": [0]},
        {"labels": ["x", 1, 2]},
        {"predictions": None},
        {"scale_limits": {"gradient": 0.0, "overlay": 1.0}},
        {"scale_limits": {"gradient": float("nan"), "overlay": 1.0}},
        {"scale_limits": 3},
    ],
)
def test_damaged_numbers_leave_the_figure(damage: dict[str, Any], folder: Path) -> None:
    parts = saliency(0)
    keep(folder, "saliency", 0, arrays=parts["arrays"], numbers=parts["numbers"] | damage)
    material = Material(Store(folder))
    section = grid("saliency")(material)
    assert section is not None
    assert section.kind == "figures"
    assert any("plots/saliency/epoch_000.npz cannot be shown" in text for text in material.damages)


@pytest.mark.parametrize("name", ["source", "delta"])
def test_damaged_arrays_leave_the_other_epochs(name: str, folder: Path) -> None:
    keep(folder, "saliency", 0, **saliency(0))
    parts = saliency(1)
    parts["arrays"][name] = parts["arrays"][name][:, 0]
    keep(folder, "saliency", 1, **parts)
    assert list(made(folder, "saliency").data["sheets"][0]["frames"]) == [0]


def test_figure_is_shown_without_arrays(folder: Path) -> None:
    keep(folder, "saliency", 0)
    assert made(folder, "saliency").kind == "figures"
    assert grid("explanations")(Material(Store(folder))) is None


# --- browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    begin(folder)
    for epoch in (0, 1):
        keep(folder, "saliency", epoch, **saliency(epoch))
        keep(folder, "jacobian_classes", epoch, **jacobian_classes(epoch))
    keep(folder, "jacobian_classes_all", 1, **jacobian_classes(2))
    keep(folder, "prototypes", 1, **prototypes())
    maps = np.ones((1, 3, 3, HEIGHT, WIDTH), np.int8)
    gallery = {
        "arrays": {
            "source": np.zeros((3, 1, HEIGHT, WIDTH), np.uint8),
            "maps": maps,
            "scales": np.ones((1, 3, 3), np.float32),
        },
        "numbers": {**GONE, "methods": ["gradient"], "classes": [0, 1, 2], "refused": {}, "shrunk_from": None},
    }
    keep(folder, "gallery", 1, **gallery)
    return write_report(folder)


def pixels(box: Any) -> np.ndarray:
    """Return the colors of a tile (height, width, 3), read in the middle of each of its enlarged pixels."""
    values, height, width = box.locator("canvas").evaluate(
        """canvas => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext("2d", {willReadFrequently: true});
            context.drawImage(canvas, 0, 0);
            return [[...context.getImageData(0, 0, canvas.width, canvas.height).data], canvas.height, canvas.width];
        }"""
    )
    whole = np.array(values).reshape(height, width, 4)
    factor = width // WIDTH
    assert (height, width) == (HEIGHT * factor, WIDTH * factor)
    return whole[factor // 2 :: factor, factor // 2 :: factor, :3]


def show(tab: Any, section: str) -> Any:
    tab.evaluate("name => pellucid.go({section: name})", section)
    part = tab.locator(f"#{section}")
    browser.until(tab, lambda: part.get_attribute("data-ready") == "true")
    return part


@pytest.mark.slow
def test_colors_and_readout_show_the_values_of_each_epoch(page: Path, chromium: Any) -> None:
    with opened(chromium, page) as tab:
        part = show(tab, "saliency")
        for epoch in (1, 0):
            tab.evaluate("epoch => pellucid.choose(epoch)", epoch)
            caption = part.locator("figcaption")
            browser.until(tab, lambda: caption.inner_text().startswith(f"Pets, epoch {epoch}:"))  # noqa: B023
            values = saliency(epoch)["arrays"]["delta"][1, 0]
            box = part.locator("tbody tr").nth(3).locator(".tile").nth(1)
            expected = signed_palette()(signed_norm(1.5)(values))[..., :3] * 255
            # a step of the palette changes a channel by at most about 5
            assert np.abs(pixels(box) - expected).max() < 8
            area = box.bounding_box()
            box.hover(position={"x": area["width"] * 2.5 / WIDTH, "y": area["height"] * 4.5 / HEIGHT})
            text = part.locator(".told .readout").inner_text()
            assert text.startswith(f"delta, dog (→ {CLASSES[2]}): ")
            shown = float(text.split("row 4, column 2: ")[1].split(" ")[0].replace("−", "-"))
            assert abs(shown - values[4, 2]) < np.abs(values).max() / 127
        image = part.locator("tbody tr").nth(0).locator(".tile").nth(0)
        assert pixels(image)[..., 0].tolist() == np.rint(saliency(0)["arrays"]["source"][0, 0] * 255).tolist()
        assert "pixel" in part.locator(".bars").inner_text()
        assert part.locator(".bars .ends").nth(1).locator("span").all_inner_texts() == ["−1.50", "0", "+1.50"]


@pytest.mark.slow
def test_tiles_of_test_images_open_in_explain(page: Path, chromium: Any) -> None:
    with opened(chromium, page) as tab:
        part = show(tab, "saliency")
        box = part.locator("tbody tr").nth(2).locator(".tile").nth(1)
        assert box.get_attribute("href") == "#explain&image=11&method=gradient&class=1"
        assert (
            part.locator("tbody tr").nth(0).locator(".tile").nth(2).get_attribute("href") == "#explain&image=13&class=2"
        )
        box.click()
        browser.until(tab, lambda: tab.evaluate("() => pellucid.place.image") == 11)
        assert tab.evaluate("() => pellucid.place.section") == "explain"


@pytest.mark.slow
def test_keyboard_moves_between_tiles_and_enlarges_them(page: Path, chromium: Any) -> None:
    with opened(chromium, page) as tab:
        part = show(tab, "prototypes")
        assert part.locator('.tile[tabindex="0"]').count() == 1
        part.locator('.tile[tabindex="0"]').focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
            tab.keyboard.press(key)
        # the mean of class 1 is missing
        assert tab.evaluate(FOCUSED) == "class mean, cat: −0.10"
        tab.keyboard.press("Space")
        dialog = part.locator("dialog")
        assert dialog.locator("h3").inner_text() == "class mean, cat"
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowUp")
        value = prototypes()["arrays"]["class_means"][0][:, 2, 2]
        means = ", ".join(f"{np.rint(one * 255) / 255:.2f}" for one in value)
        assert f"row 2, column 2: ({means})" in dialog.locator(".readout").inner_text()
        dialog.get_by_role("button", name="Next").click()
        assert dialog.locator("h3").inner_text() == f"class mean, {CLASSES[2]}"
        tab.keyboard.press("Escape")
        browser.until(tab, lambda: tab.evaluate(FOCUSED) == f"class mean, {CLASSES[2]}: −0.20")


@pytest.mark.slow
def test_switch_shows_all_test_images(page: Path, chromium: Any) -> None:
    with opened(chromium, page) as tab:
        part = show(tab, "jacobian_classes")
        assert "Pets, epoch 1: jacobian_classes." not in part.locator("figure figcaption").first.inner_text()
        part.get_by_label("All test images").check()
        caption = part.locator("figure.grid figcaption")
        browser.until(tab, lambda: caption.inner_text().startswith("Pets, epoch 1: jacobian_classes_all"))
        tab.evaluate("() => pellucid.choose(0)")
        assert part.locator(".which").inner_text().startswith("Computed at the end of training")
        part.get_by_label("Sample by epoch").check()
        browser.until(tab, lambda: caption.inner_text().startswith("Pets, epoch 0: jacobian_classes "))
        assert "median 2.00" in part.locator(".spread").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_grids_are_accessible_and_fit_the_screen(width: int, scheme: str, page: Path, chromium: Any) -> None:
    with opened(chromium, page, viewport={"width": width, "height": 844}, color_scheme=scheme) as tab:
        for name in ("saliency", "prototypes", "jacobian_classes"):
            part = show(tab, name)
            assert faults(tab, f"#{name}") == []
            assert part.locator(".tile").first.bounding_box()["width"] >= 56
        assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
        part = show(tab, "saliency")
        assert part.locator(".outline").count() == 12
        # the color of zero: near-white, or as dark as the page
        zero = tab.evaluate("() => pellucid.colours()[127]")
        assert min(zero) > 240 if scheme == "light" else max(zero) < 60
        assert CLASSES[2] in part.locator("thead").inner_text()
        assert tab.locator("section b").count() == tab.locator("#leaderboard b, #explain b").count()


@pytest.mark.slow
def test_maps_are_painted_again_when_the_scheme_changes(page: Path, chromium: Any) -> None:
    with opened(chromium, page, color_scheme="light") as tab:
        box = show(tab, "saliency").locator("tbody tr").nth(4).locator(".tile").nth(0)
        before = pixels(box)
        tab.emulate_media(color_scheme="dark")
        weakest = np.unravel_index(np.abs(saliency(1)["arrays"]["overlay"][0, 0]).argmin(), (HEIGHT, WIDTH))
        assert before[weakest].min() > 200
        browser.until(tab, lambda: pixels(box)[weakest].max() < 80)
