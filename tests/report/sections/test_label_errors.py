"""Label errors section."""

import numpy as np
import pytest

import browser
from offline_page import faults, opened
from pellucid.report import Material, write_report
from pellucid.report.sections.label_errors import label_errors
from pretended_run import CLASSES, keep


def record(count=3, **changes):
    draw = np.random.default_rng(0)
    numbers = {
        "indices": list(range(10, 10 + count)),
        "labels": [row % 3 for row in range(count)],
        "suggested": [(row + 1) % 3 for row in range(count)],
        "scores": [3.0 - row for row in range(count)],
        "label_probabilities": [0.01 * (row + 1) for row in range(count)],
        "suggested_probabilities": [0.9] * count,
        "neighbors": [0.1 * (row % 10) for row in range(count)],
        "self_influence": [float(row) for row in range(count)],
        "no_embedding": None,
        "suspects": 7,
        "pairs": [{"given": 0, "true": 1, "count": 4.0}, {"given": 2, "true": 0, "count": 3.0}],
        "images": 100,
        "of": 120,
        "chosen_classes": None,
        "lossless_size": [4, 4],
    }
    thumbnails = draw.integers(0, 255, (count, 4, 4, 1), dtype=np.uint8)
    return {"arrays": {"thumbnails": thumbnails}, "numbers": numbers | changes}


def test_section_states_the_estimate_and_the_most_frequent_pairs(store):
    keep(store, "label_errors", 2, **record())
    section = label_errors(Material(store))
    assert section.notes[0] == (
        "Confident learning estimates about 7 label errors among 100 of 120 training images. Most frequent, label → "
        f"estimated class: {CLASSES[0]} → {CLASSES[1]} (4), {CLASSES[2]} → {CLASSES[0]} (3)."
    )
    assert "memorized" in section.notes[1]
    assert section.data["cards"]["labels"] == [0, 1, 2]
    assert section.data["cards"]["neighbors"] == [0.0, 0.1, 0.2]


def test_without_embedding_and_with_chosen_classes(store):
    changes = {"neighbors": None, "self_influence": None, "no_embedding": "no linear layer", "chosen_classes": [1]}
    keep(store, "label_errors", 2, **record(**changes))
    section = label_errors(Material(store))
    assert "neighbors" not in section.data["cards"]
    assert section.notes[2:] == ("Without neighbors: no linear layer", f"Restricted to {CLASSES[1]} by --classes.")


@pytest.mark.parametrize("changes", [{"labels": [1]}, {"scores": None}, {"indices": [1, 2]}], ids=str)
def test_damaged_records_are_noted(changes, store):
    keep(store, "label_errors", 2, **record(**changes))
    material = Material(store)
    assert label_errors(material) is None
    assert "label_errors" in material.damages[0]


def test_no_record_no_section(store):
    assert label_errors(Material(store)) is None


@pytest.mark.slow
def test_images_are_sorted_and_filtered(store):
    keep(store, "label_errors", 2, **record(30))
    with browser.chromium("--disable-gpu") as program, opened(program, write_report(store.folder)) as tab:
        cards = tab.locator("#label_errors .suspects li")
        browser.until(tab, lambda: cards.count() == 24)
        assert "training image 10" in cards.nth(0).inner_text()
        tab.locator("#label_errors .more").click()
        assert cards.count() == 30
        assert tab.evaluate("document.activeElement === document.querySelectorAll('#label_errors li')[24]")
        tab.locator("#label_errors .by-order").select_option("self-influence")
        assert "training image 39" in cards.nth(0).inner_text()
        tab.locator("#label_errors .by-given").select_option("1")
        assert cards.count() == 10
        assert cards.nth(0).locator("p").first.inner_text() == f"{CLASSES[1]} → {CLASSES[2]}"
        tab.locator("#label_errors .by-suggested").select_option("0")
        assert cards.count() == 0
        assert tab.locator("#label_errors .suspect-count").inner_text() == "0 of the 30 most suspicious images"
        assert faults(tab, "#label_errors") == []
