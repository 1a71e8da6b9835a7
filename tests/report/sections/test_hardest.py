"""Hardest test images section."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pellucid.report import Material
from pellucid.report.sections.hardest import hardest
from pretended_run import hardest_images, keep


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))))


def test_cards_match_the_run(store):
    cards = hardest(Material(store)).data["cards"][1]
    numbers = hardest_images(1)["numbers"]
    assert (cards["method"], cards["refused"], cards["chosen"]) == ("gradient", [], [])
    for name in ("indices", "labels", "predictions", "confidences", "true_probabilities", "losses"):
        assert cards[name].tolist() == numbers[name]


def test_maps_are_red_blue_and_white_at_zero(store):
    arrays = hardest_images(3)["arrays"]
    relevance = np.zeros((2, 1, 4, 4), np.float32)
    relevance[0, 0, 0, 0], relevance[0, 0, 0, 1] = 2.0, -2.0
    keep(
        store,
        "hardest",
        3,
        arrays={"source": arrays["source"], "relevance": relevance},
        numbers=hardest_images(3)["numbers"],
    )
    cards = hardest(Material(store)).data["cards"][3]
    positive, negative, zero = pixels(cards["maps"])[0, :3].astype(int)
    assert positive[0] > positive[2] + 50
    assert negative[2] > negative[0] + 50
    assert zero.min() >= 245
    shown = pixels(cards["images"])[:, :4]
    assert np.array_equal(shown, (arrays["source"][0, 0].astype(np.float64) * 255).round().astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_downsampled(channels, store):
    arrays = {"source": np.ones((2, channels, 100, 200), np.float32), "relevance": np.zeros((2, channels, 100, 200))}
    keep(store, "hardest", 3, arrays=arrays, numbers=hardest_images(3)["numbers"])
    section = hardest(Material(store))
    assert section.data["cards"][3]["side"] == 96
    assert section.notes == ("Images and maps are downsampled to 96 pixels.",)


def test_selected_classes_are_named(store):
    made = hardest_images(2)
    keep(store, "hardest", 2, arrays=made["arrays"], numbers=made["numbers"] | {"chosen_classes": [1, 7]})
    assert hardest(Material(store)).notes == ("Restricted to dog, 7 by --classes.",)


def test_a_run_without_the_hook_has_no_section(store):
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"hook": "hardest"', '"hook": "other"'))
    assert hardest(Material(store)) is None
