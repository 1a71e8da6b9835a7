"""Section on images out of distribution."""

import base64
import json
import zlib

import numpy as np
import pytest

import browser
from offline_page import faults, opened
from pellucid.report import Material, write_report
from pellucid.report.sections.out_of_distribution import out_of_distribution
from pretended_run import keep

EVIL = "</script><b>evil</b>"


def table(**changes):
    areas = {("energy", "noisy"): 0.9, ("energy", EVIL): 0.3, ("softmax", "noisy"): 0.8, ("softmax", EVIL): 0.2}
    rows = [
        {"score": score, "set": name, "auroc": area, "low": area - 0.1, "high": area + 0.05, "fpr": 1 - area}
        | {"inside": 30, "outside": 10}
        for (score, name), area in areas.items()
    ]
    histogram = {
        "edges": [0.0, 1.0, 2.0],
        "is_logarithmic": False,
        "counts": {"test": [20, 10], "noisy": [1, 9], EVIL: [10, 0]},
    }
    return {
        "rows": rows,
        "best": "energy",
        "scores": {"energy": "− log Σ exp logit", "softmax": "1 − largest probability"},
        "sets": {
            name: {"description": f"with {name}", "images": 10, "mean_confidence": 0.7} for name in ("noisy", EVIL)
        },
        "mean_confidence": 0.95,
        "histograms": {"energy": histogram, "softmax": histogram},
        "refused": dict.fromkeys(("vae", "mahalanobis"), "no training images were given"),
        "unusable": {"test": 2},
    } | changes


def images():
    lists = {
        score: {
            "indices": indices,
            "labels": [0, 2],
            "predictions": [0, 1],
            "confidences": [0.9, None],
            "values": [2.5, -1e-9],
        }
        for score, indices in (("energy", [7, 3]), ("softmax", [3, 9]))
    }
    pictures = np.stack([np.full((4, 4, 1), shade, np.uint8) for shade in (30, 70, 90)])
    return {"arrays": {"thumbnails": pictures}, "numbers": {"indices": [3, 7, 9], "least_like": lists}}


@pytest.fixture
def detected(store):
    """A run with a table and images."""
    keep(store, "out_of_distribution", 2, numbers=table())
    keep(store, "out_of_distribution", 2, name="least_like", **images())
    return store


def test_table_matches_the_run(detected):
    section = out_of_distribution(Material(detected))
    data = section.data
    assert [one["name"] for one in data["scores"]] == ["energy", "softmax"]
    assert [one["name"] for one in data["sets"]] == ["noisy", EVIL]
    assert data["cells"][1][0] == pytest.approx([0.8, 0.7, 0.85, 0.2])
    assert (data["best"], data["confidence"], data["test_images"]) == ("energy", 0.95, 30)
    histogram = data["histograms"][0]
    assert histogram["test"] == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    assert histogram["sets"] == [[0.1, 0.9], [1.0, 0.0]]
    assert "No vae and mahalanobis: no training images were given." in section.notes
    assert "2 images with outputs that are not finite are left out." in section.notes


def test_thumbnails_are_stored_once(detected):
    data = out_of_distribution(Material(detected)).data
    assert data["lists"]["energy"]["indices"] == [7, 3]
    assert data["lists"]["softmax"]["confidences"] == [0.9, None]
    assert data["thumbnails"]["indices"] == [3, 7, 9]
    content = zlib.decompress(base64.b64decode(data["thumbnails"]["bytes"]))
    assert content == bytes([30] * 16 + [70] * 16 + [90] * 16)


def test_a_run_without_the_hook_has_no_section(store):
    assert out_of_distribution(Material(store)) is None


def test_a_table_without_images(store):
    keep(store, "out_of_distribution", 2, numbers=table())
    data = out_of_distribution(Material(store)).data
    assert (data["lists"], data["thumbnails"]) == ({}, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": []},
        {"mean_confidence": 1.5},
        {"scores": {}},
        {"histograms": {}},
        {"histograms": {"energy": {"edges": [0, 1], "is_logarithmic": False, "counts": {}}}},
        {"rows": [{**row, "auroc": None} for row in table()["rows"]]},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_damaged_tables_are_noted(store, changes):
    keep(store, "out_of_distribution", 2, numbers=table(**changes))
    material = Material(store)
    assert out_of_distribution(material) is None
    assert any("out_of_distribution" in damage for damage in material.damages)


@pytest.mark.slow
def test_cells_select_histograms_and_images(detected):
    with browser.chromium("--disable-gpu") as program, opened(program, write_report(detected.folder)) as tab:
        part = tab.locator("#out_of_distribution")
        buttons = part.locator(".areas button")
        assert buttons.all_inner_texts()[0].split("\n")[:2] == ["0.900", "0.800 … 0.950"]
        # at first, the set that the best score detects worst
        assert [button.get_attribute("aria-pressed") for button in buttons.all()] == ["false", "true", "false", "false"]
        assert EVIL in part.locator(".areas").inner_text()
        assert "FPR 70.0%" in buttons.nth(1).inner_text()
        assert part.locator(".odd h3").inner_text() == "Test images least like the training images by energy"
        assert part.locator(".odd li").count() == 2
        buttons.nth(2).focus()
        tab.keyboard.press("Enter")
        assert "AUROC 0.800" in part.locator("figcaption").inner_text()
        assert "by softmax" in part.locator(".odd h3").inner_text()
        cards = part.locator(".odd li").all_inner_texts()
        assert cards[0].startswith("cat, 90.0%")
        assert "→" in cards[1]
        assert "−1.0e−9" in cards[1]
        until = browser.until
        until(tab, lambda: part.locator(".odd canvas[data-painted]").count() == 2)
        shades = part.locator(".odd canvas").evaluate_all(
            "all => all.map((one) => one.getContext('2d').getImageData(1, 1, 1, 1).data[0])"
        )
        assert shades == [30, 90]
        assert part.locator("svg text").all_text_contents() == ["0", "0.5", "1", "1.5", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_section_is_accessible_on_a_phone(detected, scheme):
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with browser.chromium("--disable-gpu") as program, opened(program, write_report(detected.folder), **options) as tab:
        assert faults(tab, "#out_of_distribution") == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
