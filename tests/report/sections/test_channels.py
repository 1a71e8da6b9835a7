"""Channels of hidden layers in the report: their data, damaged files, and the panel in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.sections.test_explain import HEIGHT, WIDTH, gallery
from tests.report.sections.test_explain import keep as keep_maps

import browser
from offline_page import faults, opened
from pellucid.core.contracts import Artifact
from pellucid.report import Material, write_report
from pellucid.report.sections.channels import channels
from pellucid.storage.store import Store

RANKS = 3


def concepts(layer: str = "conv<2>") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and numbers like those of the hook: three of five channels, two images of the gallery."""
    random = np.random.default_rng(0)
    values = np.array([[5.0, 4.0, 3.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    indices = np.where(values > 0, np.array([[40, 11, 42], [43, 40, -1], [-1] * 3]), -1).astype(np.int32)
    rows = np.where(indices < 0, -1, np.arange(9).reshape(3, 3)).astype(np.int32)
    ranking = {"indices": indices, "values": values, "crops": rows}
    ranking |= {"labels": np.where(indices < 0, -1, 0), "predictions": np.where(indices < 0, -1, indices % 2)}
    relevance = np.zeros((2, 2, 5), np.float32)
    relevance[0, 0] = [1.0, 0.0, -0.5, 0.0, 0.25]
    relevance[1, 1] = [0.0, 3.0, 0.0, 0.0, 0.0]
    arrays = {
        "channels": np.array([4, 0, 2], np.int32),
        "mean_relevance": np.array([[0.5, 0.0, -0.125], [0.375, 0.0, 0.0], [0.0625, 0.0, 0.0]], np.float32),
        "crops": random.integers(0, 256, (9, 3, 3, 1)).astype(np.uint8),
        **{f"{name}_{field}": one.copy() for name in ("relevance", "activation") for field, one in ranking.items()},
        "channel_relevance": relevance,
        "map_channels": np.array([[[0, 2, 1], [0, 1, 2]], [[0, 1, 2], [1, 0, 2]]], np.int32),
        "maps": random.integers(-127, 128, (2, 2, 3, HEIGHT, WIDTH)).astype(np.int8),
        "scales": np.full((2, 2, 3), 0.5, np.float32),
    }
    arrays["activation_values"] *= 10
    # channel 0 is active, but never evidence
    arrays["relevance_indices"][1] = -1
    numbers = {
        "indices": [7, 11],
        "predictions": [0, 2],
        "confidences": [0.95, 0.5],
        "classes": [[0, 1], [2, 1]],
        "totals": [[4.0, 0.125], [1.0, None]],
        "layer": layer,
        "shape": [5, 2, 4],
        "axis": 1,
        "method": "lrp.epsilon_plus_flat",
        "images": 1500,
        "note": "",
    }
    return arrays, numbers


def keep(folder: Path, arrays: dict[str, np.ndarray], numbers: dict[str, Any], name: str = "") -> None:
    store = Store(folder)
    store.keep(store.pack("concepts", 2, Artifact("channels", name, arrays=arrays, numbers=numbers), None))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep_maps(tmp_path, *gallery())
    return tmp_path


def test_layers_have_their_channels_and_the_images_of_the_gallery(folder: Path) -> None:
    keep(folder, *concepts())
    keep(folder, *concepts("earlier"), name="earlier")
    section = channels(Material(Store(folder)))
    assert section is not None
    assert (section.hook, [one["name"] for one in section.data["layers"]]) == ("concepts", ["conv<2>", "earlier"])
    layer = section.data["layers"][0]
    assert (layer["sizes"], layer["images"]) == ("5 channels at 2×4 positions", 1500)
    assert layer["means"] == [[(0, 0.5), (1, 0.375), (2, 0.0625)], [], [(0, -0.125)]]
    assert [len(found) for found in layer["rankings"]["relevance"]] == [3, 0, 0]
    assert [len(found) for found in layer["rankings"]["activation"]] == [3, 2, 0]
    first = {"index": 40, "label": 0, "prediction": 0, "crop": 0, "value": 5.0, "linked": False}
    assert layer["rankings"]["relevance"][0][0] == first
    assert [one["linked"] for one in layer["rankings"]["relevance"][0]] == [False, True, False]
    assert layer["rankings"]["activation"][0][0] == {**first, "value": 50.0}
    explained = layer["explained"]
    assert explained["rows"] == {7: 0, 11: 1}
    assert explained["values"][0][0] == [1.0, -0.5, 0.0]
    assert explained["totals"] == [[4.0, 0.125], [1.0, None]]


def test_images_of_another_network_are_left_out(folder: Path) -> None:
    arrays, numbers = concepts()
    keep(folder, arrays, {**numbers, "confidences": [0.95, 0.6], "predictions": [0, 2]})
    section = channels(Material(Store(folder)))
    assert section is not None
    assert section.data["layers"][0]["explained"]["rows"] == {7: 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crops", np.zeros((2, 3, 3, 1), np.uint8)),
        ("mean_relevance", np.full((3, 3), np.nan)),
        ("relevance_labels", np.zeros((2, 3), int)),
        ("maps", np.zeros((2, 2, 3, 2, 2), np.float32)),
        ("map_channels", np.full((2, 2, 3), 99)),
        ("scales", np.zeros((2, 3))),
        ("channel_relevance", np.full((2, 2, 5), np.inf)),
    ],
)
def test_damaged_files_are_noted(folder: Path, name: str, value: np.ndarray) -> None:
    arrays, numbers = concepts()
    keep(folder, {**arrays, name: value}, numbers)
    material = Material(Store(folder))
    assert channels(material) is None
    assert "plots/concepts" in material.damages[0]


def test_without_results_there_is_no_section(folder: Path) -> None:
    assert channels(Material(Store(folder))) is None


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as one:
        yield one


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    keep_maps(folder, *gallery())
    keep(folder, *concepts())
    keep(folder, *concepts("earlier"), name="earlier")
    return write_report(folder)


def go(tab: Any, fragment: str) -> None:
    tab.evaluate("(fragment) => { location.hash = fragment; }", fragment)


def place(tab: Any) -> tuple[Any, ...]:
    return tuple(tab.evaluate("() => ['section', 'image', 'layer', 'channel'].map((key) => pellucid.place[key])"))


@pytest.mark.slow
def test_a_channel_of_an_explained_image_opens(path: Path, chromium: Any) -> None:
    with opened(chromium, path) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        go(tab, "explain&image=7&class=0")
        buttons = tab.locator("#explain .channel-list button")
        browser.until(tab, lambda: place(tab)[1] == 7 and buttons.count() == 3)
        text = [one.replace("\n", " ") for one in buttons.all_inner_texts()]
        # the relevance of channel 1 is 0, and its reference images are not stored
        assert text[0].startswith("Channel 0 no evidence for any class +1.00 (25.0% of the logit)")
        assert text[1].startswith("Channel 2 no evidence for any class −0.500 (−12.5% of the logit)")
        buttons.nth(1).focus()
        tab.keyboard.press("Enter")
        panel = tab.locator("dialog.channel-panel")
        assert panel.locator("h2").inner_text() == "Channel 2 of layer conv<2>"
        assert place(tab) == ("explain", 7, "conv<2>", 2)
        browser.until(tab, lambda: panel.get_attribute("data-ready") == "true")
        assert "contributes −0.500 (−12.5% of the logit) to cat, whose logit is 4.00" in panel.inner_text()
        assert panel.locator(".references").inner_text() == "This channel is never evidence for a predicted class."
        assert panel.locator(".by-class li").all_inner_texts() == ["cat\n−0.125"]
        assert faults(tab, "dialog.channel-panel") == []
        tab.keyboard.press("Escape")
        browser.until(tab, lambda: place(tab) == ("explain", 7, None, None))
        assert not panel.is_visible()
        assert faults(tab, "#explain .by-channel") == []
        # 0.125 is no scale for a channel of relevance 0.25 or more
        tab.locator("#explain .by-channel select").select_option(label="earlier (5 channels at 2×4 positions)")
        assert (
            "of 5 channels at 2×4 positions, by lrp.epsilon_plus_flat"
            in tab.locator("#explain .by-channel").inner_text()
        )
        go(tab, "explain&image=7&class=2")
        browser.until(tab, lambda: "stored for cat and dog" in tab.locator("#explain .by-channel").inner_text())
        assert buttons.count() == 0


@pytest.mark.slow
def test_an_address_opens_a_channel_and_its_links_leave_it(path: Path, chromium: Any) -> None:
    with opened(chromium, path, is_lazy=True, viewport={"width": 390, "height": 800}, color_scheme="dark") as tab:
        go(tab, "channels&layer=earlier&channel=4")
        panel = tab.locator("dialog.channel-panel")
        panel.wait_for()
        assert panel.locator(".use").inner_text() == "Evidence for cat, dog."
        assert not panel.locator(".of-image").is_visible()
        references = panel.locator(".references li")
        assert references.all_inner_texts() == ["cat\n+5.00", "cat\n→ dog\n+4.00", "cat\n+3.00"]
        panel.get_by_label("Most active").check()
        assert references.all_inner_texts()[0] == "cat\n+50.0"
        browser.until(tab, lambda: references.first.locator("canvas[data-painted]").count() == 1)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        # the other images are not stored in the page
        assert references.locator("a").count() == 1
        references.nth(1).locator("a").click()
        browser.until(tab, lambda: place(tab)[:2] == ("explain", 11))
        assert not panel.is_visible()
        go(tab, "channels&channel=3")
        status = tab.locator("#channels .which")
        browser.until(tab, lambda: status.inner_text() == "Channel 3 of layer conv<2> is not stored in the page.")
        go(tab, "explain&image=7&class=0&layer=conv%3C2%3E&channel=0")
        browser.until(tab, lambda: "whose logit is 4.00" in panel.inner_text())
        assert panel.get_by_label("Most active").is_checked()
        assert references.count() == 2
        tab.go_back()
        browser.until(tab, lambda: not panel.is_visible())


@pytest.mark.slow
def test_the_grid_is_filtered_by_class(path: Path, chromium: Any) -> None:
    with opened(chromium, path) as tab:
        grid = tab.locator("#channels .channel-grid li")
        assert [one.split("\n")[0] for one in grid.all_inner_texts()] == ["Channel 4", "Channel 0", "Channel 2"]
        tab.locator("#channels .by-class").select_option(label="dog")
        assert [one.split("\n") for one in grid.all_inner_texts()] == [["Channel 4", "for cat, dog"]]
        assert (
            "1 channel, those with the largest mean relevance for dog first." in tab.locator("#channels").inner_text()
        )
        grid.first.locator("button").click()
        assert place(tab) == ("channels", None, "conv<2>", 4)
        tab.locator("dialog.channel-panel").get_by_role("button", name="Close").click()
        browser.until(tab, lambda: place(tab) == ("channels", None, None, None))
        assert faults(tab, "#channels") == []
