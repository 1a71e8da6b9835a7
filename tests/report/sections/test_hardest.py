"""Hardest test images section."""

import base64
import sys
import zlib

import numpy as np
import pytest

import browser
from offline_page import opened
from pellucid.plots.colours import scale_limit, signed_norm, signed_palette
from pellucid.report import Material, write_report
from pellucid.report.sections.hardest import hardest
from pretended_run import hardest_images, keep


def decoded(cards, name, kind=np.uint8):
    """Return the bytes of all cards: images (card, height, width, channel) or maps (card, height, width)."""
    content = np.frombuffer(zlib.decompress(base64.b64decode(cards[name])), kind)
    return content.reshape(-1, *(cards["map_size"] if name == "maps" else (*cards["size"], cards["channels"])))


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
    assert decoded(cards, "maps", np.int8)[0, 0].tolist() == [127, -127, 0, 0]
    shown = decoded(cards, "images")[0, ..., 0]
    assert np.array_equal(shown, (arrays["source"][0, 0].astype(np.float64) * 255).round().astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_downsampled(channels, store):
    draw = np.random.default_rng(0)
    source = draw.random((2, channels, 96, 192)).astype(np.float32)
    relevance = draw.normal(size=(2, channels, 96, 192)).astype(np.float32)
    keep(store, "hardest", 3, arrays={"source": source, "relevance": relevance}, numbers=hardest_images(3)["numbers"])
    section = hardest(Material(store))
    cards = section.data["cards"][3]
    assert (cards["size"], cards["map_size"]) == ((48, 96), (48, 96))
    bytes_ = (source * 255.0).round().reshape(2, channels, 48, 2, 96, 2).mean((3, 5)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(decoded(cards, "images"), bytes_, atol=1.01)
    steps = (relevance.sum(1) / 2.0 * 127).reshape(2, 48, 2, 96, 2).mean((2, 4)).clip(-127, 127)
    np.testing.assert_allclose(decoded(cards, "maps", np.int8), steps, atol=0.51)
    assert section.notes == ("Images and maps are downsampled to 96 pixels.",)


def gallery_of(numbers, **changes):
    """Return a gallery of the images of the cards, explained by a method that the hook did not use."""
    maps = np.random.default_rng(5).integers(-127, 128, (1, 2, 3, 4, 4)).astype(np.int8)
    arrays = {"source": np.zeros((2, 1, 4, 4), np.uint8), "maps": maps, "scales": np.full((1, 2, 3), 4.0)}
    own = {name: numbers[name] for name in ("indices", "labels", "predictions", "confidences")}
    return {
        "arrays": arrays,
        "numbers": {**own, "methods": ["deeplift"], "classes": [0, 1, 2], "refused": {}, **changes},
    }


def test_cards_of_the_final_network_show_the_recommended_method(store, monkeypatch):
    monkeypatch.setattr(sys.modules["pellucid.report.sections.hardest"], "recommended_method", lambda _: "deeplift")
    numbers = hardest_images(2)["numbers"]
    keep(store, "hardest", 1, **{**hardest_images(1), "numbers": {**numbers, "confidences": [0.9, 0.69]}})
    made = gallery_of(numbers)
    keep(store, "gallery", 2, **made)
    cards = hardest(Material(store)).data["cards"]
    # epoch 1 has another network, whose confidences differ
    assert [(cards[epoch]["method"], cards[epoch]["recommended"]) for epoch in (1, 2)] == [
        ("gradient", False),
        ("deeplift", True),
    ]
    for row, prediction in enumerate(numbers["predictions"]):
        values = made["arrays"]["maps"][0, row, prediction] / 127 * 4.0
        limit = scale_limit(values)
        assert cards[2]["limits"][row] == pytest.approx(limit)
        steps = np.rint((values / limit * 127).clip(-127, 127))
        np.testing.assert_allclose(decoded(cards[2], "maps", np.int8)[row], steps, atol=1)


@pytest.mark.parametrize(
    "changes",
    [{"indices": [7, 8]}, {"predictions": [0, 0]}, {"confidences": [0.9, None]}, {"methods": ["lrp.epsilon"]}],
)
def test_gallery_of_other_images_or_another_network_is_not_used(store, monkeypatch, changes):
    monkeypatch.setattr(sys.modules["pellucid.report.sections.hardest"], "recommended_method", lambda _: "deeplift")
    keep(store, "gallery", 2, **gallery_of(hardest_images(2)["numbers"], **changes))
    cards = hardest(Material(store)).data["cards"][2]
    assert (cards["method"], cards["recommended"]) == ("gradient", False)


def test_selected_classes_are_named(store):
    made = hardest_images(2)
    keep(store, "hardest", 2, arrays=made["arrays"], numbers=made["numbers"] | {"chosen_classes": [1, 7]})
    assert hardest(Material(store)).notes == ("Restricted to dog, 7 by --classes.",)


def test_a_run_without_the_hook_has_no_section(store):
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"hook": "hardest"', '"hook": "other"'))
    assert hardest(Material(store)) is None


@pytest.mark.slow
def test_cards_open_in_the_section_of_maps(store, monkeypatch):
    monkeypatch.setattr(sys.modules["pellucid.report.sections.hardest"], "recommended_method", lambda _: "deeplift")
    numbers = hardest_images(2)["numbers"]
    for epoch in (0, 1):  # other networks
        keep(store, "hardest", epoch, **{**hardest_images(epoch), "numbers": {**numbers, "confidences": [0.8, 0.7]}})
    made = gallery_of(numbers)
    keep(store, "gallery", 2, **made)
    with browser.chromium("--disable-gpu") as program, opened(program, write_report(store.folder)) as tab:
        tab.evaluate(
            "() => { window.count = 0; const unpack = pellucid.unpack;"
            "pellucid.unpack = (text) => { window.count += 1; return unpack(text); }; }"
        )
        cards = tab.locator("#hardest .cards li")
        assert tab.locator("#hardest .method").inner_text() == "Explanations by deeplift, the recommended method."
        drawn = (
            cards.nth(0)
            .locator("canvas")
            .nth(1)
            .evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 4, 4).data]")
        )
        values = made["arrays"]["maps"][0, 0, 1] / 127 * 4.0
        limit = scale_limit(values)
        expected = signed_palette()(signed_norm(limit)(values.clip(-limit, limit)))
        np.testing.assert_allclose(np.reshape(drawn, (4, 4, 4)) / 255, expected, atol=0.025)
        assert cards.nth(0).locator("a").get_attribute("href") == "#explain&image=7&method=deeplift&class=1"
        # an epoch is decoded when it is first shown, as one list of images and one of maps
        for epoch, count, method in ((1, 2, "gradient"), (2, 2, "deeplift"), (1, 2, "gradient"), (0, 4, "gradient")):
            tab.evaluate("(epoch) => pellucid.choose(epoch)", epoch)
            browser.until(tab, lambda method=method: method in tab.locator("#hardest .method").inner_text())
            assert tab.evaluate("window.count") == count
        assert cards.nth(0).locator("a").get_attribute("href") == "#explain&image=7&method=gradient&class=1"
        cards.nth(1).locator("a").click()
        browser.until(tab, lambda: "Test image 9 " in tab.locator("#explain .answer").inner_text())
        # the gallery has no maps by the method of this card
        assert "There are no maps by gradient." in tab.locator("#explain .state").inner_text()
        tab.go_back()
        browser.until(tab, lambda: tab.evaluate("() => pellucid.place.section") != "explain")
