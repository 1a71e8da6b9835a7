"""Interactive relevance maps: their data, and their behavior in the browser."""

import json
import sys
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
from pellucid.report import Material, write_report
from pellucid.report.sections.explain import explain, maps_section, palette
from pellucid.storage.store import Store

CLASSES = ["cat", "dog", "<b>owl"]
METHODS = ["gradient", "lrp.epsilon"]
IMAGES, HEIGHT, WIDTH = 3, 6, 4


def gallery(channels: int = 1, side: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and numbers like those of the hook; image 1 is misclassified."""
    random = np.random.default_rng(1)
    maps = random.integers(-127, 128, (len(METHODS), IMAGES, 3, HEIGHT, WIDTH)).astype(np.int8)
    scales = random.uniform(0.01, 5, maps.shape[:3]).astype(np.float32)
    total = (maps / 127 * scales[..., None, None]).sum((3, 4))
    promised = {"gradient": None, "lrp.epsilon": (total[1] - 0.25).tolist()}
    numbers = {
        "indices": [7, 11, 13],
        "labels": [0, 1, 2],
        "predictions": [0, 2, 2],
        "confidences": [0.95, 0.5, 0.9],
        "methods": METHODS,
        "classes": [0, 1, 2],
        "logits": [[4.0, 1.0, -2.5], [0.5, 1.0, 1.5], [0.0, 0.1, 3.0]],
        "probabilities": [[0.95, 0.04, 0.01], [0.2, 0.3, 0.5], [0.04, 0.06, 0.9]],
        "expected": promised,
        "total": {"gradient": None, "lrp.epsilon": total[1].tolist()},
        "residual": {"gradient": None, "lrp.epsilon": [[0.25] * 3] * 3},
        "allowed": {"gradient": None, "lrp.epsilon": [[0.5] * 3] * 3},
        "shrunk_from": None,
        "refused": {},
    }
    source = random.integers(0, 256, (IMAGES, channels, *side)).astype(np.uint8)
    return {"source": source, "maps": maps, "scales": scales}, numbers


PAIRS = 8


def pairs() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the artifact with two classes per image: five misclassified images, then three correct ones."""
    random = np.random.default_rng(2)
    maps = random.integers(-127, 128, (len(METHODS), PAIRS, 2, HEIGHT, WIDTH)).astype(np.int8)
    scales = random.uniform(0.01, 5, maps.shape[:3]).astype(np.float32)
    total = (maps / 127 * scales[..., None, None]).sum((3, 4))
    labels, predictions = [0, 0, 1, 1, 2, 0, 1, 2], [1, 2, 0, 2, 0, 0, 1, 2]
    others = [label if label != taken else (taken + 1) % 3 for label, taken in zip(labels, predictions, strict=True)]
    numbers = {
        "indices": [500 + number for number in range(PAIRS)],
        "labels": labels,
        "predictions": predictions,
        "confidences": [0.6, 0.99, 0.5, 0.7, 0.8, 0.9, 0.95, 0.4],
        "losses": [1.0] * PAIRS,
        "methods": METHODS,
        "classes": [list(pair) for pair in zip(predictions, others, strict=True)],
        "logits": random.normal(size=(PAIRS, 2)).tolist(),
        "probabilities": [[0.6, 0.3]] * PAIRS,
        "expected": {"gradient": None, "lrp.epsilon": total[1].tolist()},
        "residual": {"gradient": None, "lrp.epsilon": [[0.0] * 2] * PAIRS},
        "allowed": {"gradient": None, "lrp.epsilon": [[0.001] * 2] * PAIRS},
        "options": {"gradient": {"samples": 4}},
        "shrunk_from": None,
        "refused": {},
    }
    source = random.integers(0, 256, (PAIRS, 1, HEIGHT, WIDTH)).astype(np.uint8)
    return {"source": source, "maps": maps, "scales": scales}, numbers


def keep(folder: Path, arrays: dict[str, np.ndarray], numbers: dict[str, Any], epoch: int = 2, name: str = "") -> None:
    store = Store(folder)
    if not name:
        store.begin({"status": "finished", "dataset": {"title": "Pets", "classes": CLASSES}})
        store.add_metrics({"epoch": epoch})
    store.keep(store.pack("gallery", epoch, Artifact("maps", name, arrays=arrays, numbers=numbers), None))


def made(folder: Path) -> tuple[Any, Material]:
    material = Material(Store(folder))
    return explain(material), material


def unpacked(text: str, kind: type, *shape: int) -> np.ndarray:
    return np.frombuffer(zlib.decompress(b64decode(text)), kind).reshape(shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(tmp_path, *gallery())
    return tmp_path


def test_images_without_labels_have_titles() -> None:
    arrays, numbers = gallery()
    record = {**numbers, "labels": None, "titles": ["a.png", "b.png", "c.png"], "targets": [1, 1, 1]}
    section = maps_section(arrays, record, "a note")
    (part,) = section.data["parts"]
    assert "labels" not in part
    assert part["titles"] == ["a.png", "b.png", "c.png"]
    assert part["targets"] == [1, 1, 1]
    assert (section.data["opens_on"], section.data["has_images"]) == (None, False)
    assert (section.data["noun"], section.notes) == ("image", ("a note",))
    assert section.lead.startswith("Select an image, ")
    with pytest.raises(ValueError, match="do not match"):
        maps_section(arrays, {**record, "titles": ["a.png"]})
    with pytest.raises(ValueError, match="do not match"):
        maps_section(arrays, {**record, "targets": [1]})


def test_maps_and_images_are_lossless(folder: Path) -> None:
    arrays = gallery()[0]
    section, material = made(folder)
    (part,) = section.data["parts"]
    maps = np.stack([unpacked(text, np.int8, IMAGES, 3, HEIGHT, WIDTH) for text in part["maps"]])
    np.testing.assert_array_equal(maps, arrays["maps"])
    np.testing.assert_allclose(part["scales"], arrays["scales"], rtol=1e-5)
    source = section.data["source"]
    assert (source["size"], source["channels"]) == ((HEIGHT, WIDTH), 1)
    pixels = unpacked(part["source"], np.uint8, IMAGES, HEIGHT, WIDTH, 1)
    np.testing.assert_array_equal(pixels, arrays["source"].transpose(0, 2, 3, 1))
    assert section.data["is_exact"]
    assert section.data["has_whole_images"]
    assert material.damages == []


def test_scale_limits_match_the_other_figures(folder: Path) -> None:
    arrays = gallery()[0]
    (data,) = made(folder)[0].data["parts"]
    values = arrays["maps"] / 127 * arrays["scales"][..., None, None]
    for method in range(2):
        for image in range(IMAGES):
            assert data["shared_limits"][method][image] == pytest.approx(scale_limit(values[method, image]), rel=1e-5)
            for label in range(3):
                own = scale_limit(values[method, image, label])
                assert data["limits"][method][image][label] == pytest.approx(own, rel=1e-5)


def test_palette_matches_the_other_figures() -> None:
    colors = np.frombuffer(bytes.fromhex(palette()), np.uint8).reshape(255, 3)
    drawn = signed_palette()(signed_norm(127.0)(np.arange(-127, 128)), bytes=True)[:, :3]
    np.testing.assert_allclose(colors, drawn, atol=1)


def test_sums_match_the_hook(folder: Path) -> None:
    numbers = gallery()[1]
    (data,) = made(folder)[0].data["parts"]
    for name in ("expected", "residual", "allowed"):
        assert data[name][0] is None
        np.testing.assert_allclose(data[name][1], numbers[name]["lrp.epsilon"])
    np.testing.assert_allclose(data["logits"], numbers["logits"])


def test_optional_numbers_may_be_missing(tmp_path: Path) -> None:
    arrays, numbers = gallery()
    needed = ("indices", "labels", "predictions", "methods", "classes")
    keep(tmp_path, arrays, {name: numbers[name] for name in needed})
    section, material = made(tmp_path)
    (part,) = section.data["parts"]
    assert part["logits"] is None
    assert part["confidences"] is None
    assert part["expected"] == [None, None]
    assert material.damages == []


def test_notes_describe_downsampling_options_and_refusals(tmp_path: Path) -> None:
    arrays, numbers = gallery(channels=3, side=(12, 8))
    extra = {"shrunk_from": [60, 40], "options": {"gradient": {"samples": 16}}, "refused": {"cam": "no pooling."}}
    keep(tmp_path, arrays, numbers | extra)
    section, _ = made(tmp_path)
    assert section.data["remarks"] == [
        "The maps are downsampled from 60×40 to 6×4 by summing over areas.",
        "To save time, some methods do not use their default settings: gradient with samples 16.",
        "Not applicable to this model: cam (no pooling).",
    ]
    assert not section.data["is_exact"]
    assert section.data["source"]["size"] == (12, 8)


def test_two_channels_become_gray(tmp_path: Path) -> None:
    arrays, numbers = gallery(channels=2)
    keep(tmp_path, arrays, numbers)
    (part,) = made(tmp_path)[0].data["parts"]
    gray = unpacked(part["source"], np.uint8, IMAGES, HEIGHT, WIDTH)
    np.testing.assert_allclose(gray, arrays["source"].mean(1), atol=0.5)


@pytest.mark.parametrize(
    ("arrays", "numbers", "reason"),
    [
        ({"maps": np.zeros((2, 3, 3, 6, 4))}, {}, "its maps have dtype float64"),
        ({"maps": np.zeros((2, 4, 3, 6, 4), np.int8)}, {}, "for 4 images"),
        ({"scales": np.zeros((2, 3))}, {}, "its scales have shape (2, 3)"),
        ({"scales": np.full((2, 3, 3), np.nan)}, {}, "not finite"),
        ({"source": np.zeros((3, 1, 6, 4))}, {}, "its source has dtype float64"),
        ({}, {"methods": ["one"]}, "the names or labels do not match"),
        ({}, {"labels": [1]}, "the names or labels do not match"),
        ({"maps": np.zeros((0, 3, 3, 6, 4), np.int8)}, {"refused": {"cam": "why"}}, "no method applies"),
    ],
)
def test_damaged_gallery_is_omitted_and_listed(
    tmp_path: Path, arrays: dict[str, np.ndarray], numbers: dict[str, Any], reason: str
) -> None:
    whole = gallery()
    keep(tmp_path, whole[0] | arrays, whole[1] | numbers)
    section, material = made(tmp_path)
    assert section is None
    assert [reason in damage and "gallery/epoch_002" in damage for damage in material.damages] == [True]


def test_table_of_another_shape_is_listed_as_damaged(tmp_path: Path) -> None:
    arrays, numbers = gallery()
    keep(tmp_path, arrays, numbers | {"logits": [[1.0]]})
    section, material = made(tmp_path)
    assert section is None
    assert "shape (1, 1)" in material.damages[0]


def test_scale_limits_of_empty_and_sparse_maps(tmp_path: Path) -> None:
    arrays, numbers = gallery()
    maps = np.zeros((2, 3, 3, 40, 40), np.int8)
    maps[0, 0, 0, 3, 3] = -127  # one of 1,600 values: the quantile is zero
    keep(tmp_path, {**arrays, "maps": maps, "scales": np.where(maps.any((3, 4)), 2.0, 0.0)}, numbers)
    (part,) = made(tmp_path)[0].data["parts"]
    assert part["limits"][0][0].tolist() == [2, 1, 1]
    assert part["shared_limits"][0].tolist() == [2, 1, 1]


def test_pairs_join_the_main_images(folder: Path) -> None:
    arrays, numbers = pairs()
    numbers["indices"][2] = 11  # an image of the main artifact
    keep(folder, arrays, numbers, name="pairs")
    section, material = made(folder)
    main, more = section.data["parts"]
    kept = [0, 1, 3, 4, 5, 6, 7]
    assert main["indices"] == [7, 11, 13]
    assert more["indices"] == [numbers["indices"][row] for row in kept]
    assert more["classes"].tolist() == [numbers["classes"][row] for row in kept]
    maps = np.stack([unpacked(text, np.int8, 7, 2, HEIGHT, WIDTH) for text in more["maps"]])
    np.testing.assert_array_equal(maps, arrays["maps"][:, kept])
    np.testing.assert_allclose(more["expected"][1], np.array(numbers["expected"]["lrp.epsilon"])[kept])
    np.testing.assert_allclose(more["logits"], np.array(numbers["logits"])[kept])
    assert section.data["remarks"] == ["Images with maps for two classes use gradient with samples 4."]
    assert material.damages == []


def test_pairs_of_another_size_are_left_out_with_a_note(folder: Path) -> None:
    arrays, numbers = pairs()
    keep(folder, {**arrays, "maps": arrays["maps"][..., :3]}, numbers, name="pairs")
    section, material = made(folder)
    assert len(section.data["parts"]) == 1
    assert "do not fit" in material.damages[0]


def test_pairs_may_lack_a_method(folder: Path) -> None:
    arrays, numbers = pairs()
    keep(
        folder,
        {name: values[1:] if name != "source" else values for name, values in arrays.items()},
        numbers | {"methods": ["lrp.epsilon"]},
        name="pairs",
    )
    more = made(folder)[0].data["parts"][1]
    assert more["maps"][0] is None
    assert more["maps"][1] is not None


def test_section_opens_on_the_recommended_method(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, opens_on, text in [
        ("lrp.epsilon", "lrp.epsilon", "Opens on lrp.epsilon, the method that the leaderboard recommends. Computed"),
        ("random", None, "Computed"),
        (None, None, "Computed"),
    ]:
        monkeypatch.setattr(
            sys.modules["pellucid.report.sections.explain"], "recommended_method", lambda _, name=name: name
        )
        section, _ = made(folder)
        assert section.data["opens_on"] == opens_on
        assert section.notes[0].startswith(text)


def test_run_without_gallery_has_no_section(tmp_path: Path) -> None:
    assert made(tmp_path)[0] is None


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as one:
        yield one


@pytest.fixture
def page(folder: Path, chromium: Any) -> Iterator[Any]:
    with opened(chromium, write_report(folder)) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        assert tab.locator("#explain select.by-method").input_value() == "lrp.epsilon"  # the first with a check
        choose(tab, image=0, method="gradient")
        yield tab


def digits(value: float, count: int = 3) -> str:
    """Format a number as the page does for this magnitude."""
    text = np.format_float_positional(abs(value), count, unique=False, fractional=False, trim="k")
    return ("−" if value < 0 else "") + text.rstrip(".")


def relevance(method: int, image: int, label: int, row: int, column: int) -> float:
    arrays = gallery()[0]
    return float(arrays["maps"][method, image, label, row, column] / 127 * arrays["scales"][method, image, label])


def hover(tab: Any, row: int, column: int, part: str = ".map") -> str:
    canvas = tab.locator(f"#explain {part} canvas").first
    canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = canvas.bounding_box()
    tab.mouse.move(box["x"] + (column + 0.5) * box["width"] / WIDTH, box["y"] + (row + 0.5) * box["height"] / HEIGHT)
    return tab.locator("#explain .readout").inner_text()


def choose(tab: Any, image: int | None = None, method: str | None = None, position: int | None = None) -> None:
    if image is not None:
        tab.locator(f"#explain .strip input[value='{(7, 11, 13)[image]}']").check()
    if method is not None:
        tab.get_by_label("Method", exact=True).select_option(label=method)
    if position is not None:
        tab.get_by_label("Class", exact=True).select_option(str(position))


@pytest.mark.slow
@pytest.mark.parametrize("part", [".map", ".image", ".over"])
def test_hovering_over_a_pixel_shows_its_value(page: Any, part: str) -> None:
    choose(page, image=2, method="lrp.epsilon", position=1)
    arrays, numbers = gallery()
    for row, column in ((0, 0), (4, 2), (5, 3)):
        value = relevance(1, 2, 1, row, column)
        share = f"{100 * value / numbers['expected']['lrp.epsilon'][2][1]:.1f}".replace("-", "−")
        assert hover(page, row, column, part) == (
            f"Row {row}, column {column}: pixel {arrays['source'][2, 0, row, column]} of 255, "
            f"relevance {'+' if value > 0 else ''}{digits(value)} "
            f"(in steps of {digits(arrays['scales'][1, 2, 1] / 127)}), {share}% of the expected sum."
        )


@pytest.mark.slow
def test_pixels_can_be_selected_by_keyboard(page: Any) -> None:
    page.locator("#explain .map canvas").focus()
    readout = page.locator("#explain .readout")
    for key, row, column in [
        ("ArrowUp", 3, 2),  # the first key selects the center
        ("ArrowUp", 2, 2),
        ("ArrowRight", 2, 3),
        ("ArrowRight", 2, 3),  # the edge
        ("Home", 2, 0),
        ("ArrowDown", 3, 0),
        ("End", 3, 3),
    ]:
        page.keyboard.press(key)
        value = relevance(0, 0, 0, row, column)
        assert readout.inner_text().startswith(f"Row {row}, column {column}: "), key
        assert f"relevance {'+' if value > 0 else ''}{digits(value)} " in readout.inner_text()
    page.keyboard.press("Escape")
    assert readout.inner_text() == ""


@pytest.mark.slow
def test_map_is_drawn_in_the_palette(page: Any) -> None:
    drawn = page.locator("#explain .map canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    arrays = gallery()[0]
    values = arrays["maps"][0, 0, 0] / 127.0 * arrays["scales"][0, 0, 0]
    limit = scale_limit(values)
    expected = signed_palette()(signed_norm(limit)(values.clip(-limit, limit)))
    np.testing.assert_allclose(np.reshape(drawn, (HEIGHT, WIDTH, 4)) / 255, expected, atol=0.025)


@pytest.mark.slow
def test_conservation_check_begins_with_its_verdict(page: Any) -> None:
    numbers = gallery()[1]
    certificate = page.locator("#explain .certificate")
    assert certificate.locator(".balance").inner_text() == "No guarantee: gradient does not promise a sum."
    assert certificate.locator("details").is_hidden()
    choose(page, image=1, method="lrp.epsilon", position=0)
    expected, total = (numbers[name]["lrp.epsilon"][1][0] for name in ("expected", "total"))
    share = 100 * 0.25 / abs(expected)
    assert share > 1
    assert certificate.locator(".balance").inner_text() == (
        f"Incomplete: the relevance misses {float(f'{share:.2g}'):g}% of the expected sum, "
        "within the tolerance of the method."
    )
    certificate.locator("summary").click()
    assert certificate.locator("dt").all_text_contents() == ["logit", "expected sum", "sum", "residual", "tolerance"]
    assert certificate.locator("dd").all_text_contents() == [
        "0.50000",
        *(digits(value, 5) for value in (expected, total)),
        "0.25",
        "0.50",
    ]


CONSERVATION = [
    (
        {"expected": 10.0, "residual": 0.002, "allowed": 0.01},
        10.0,
        "Complete: the relevance sums to the logit to within 0.02%.",
    ),
    (
        {"expected": 4.0, "residual": 0.0, "allowed": None},
        10.0,
        "Complete: the relevance sums to the expected sum exactly.",
    ),
    (
        {"expected": 10.0, "residual": -0.31, "allowed": None},
        10.0,
        "Incomplete: the relevance misses 3.1% of the logit.",
    ),
    (
        {"expected": 10.0, "residual": 0.05, "allowed": 0.01},
        10.0,
        "Incomplete: the relevance misses 0.5% of the logit, more than the tolerance of the method.",
    ),
    (
        {"expected": 1e-4, "residual": 5e-5, "allowed": 1e-3},
        None,
        "Complete: the relevance sums to the expected sum, 0.00010, up to rounding.",
    ),
    (
        {"expected": 0.0, "residual": 0.0, "allowed": 1e-3},
        5.0,
        "Complete: the relevance sums to the expected sum, 0, up to rounding.",
    ),
    (
        {"expected": 0.0, "residual": 0.5, "allowed": 1e-3},
        5.0,
        "Incomplete: the relevance misses the expected sum, more than the tolerance of the method.",
    ),
    ({"expected": 2.0, "residual": None, "allowed": None}, 5.0, "No guarantee: x does not promise a sum."),
]


@pytest.mark.slow
def test_verdicts_of_the_conservation_check(page: Any) -> None:
    for sums, logit, verdict in CONSERVATION:
        result = page.evaluate(
            "([sums, logit]) =>"
            "pellucid.conservation({values: [3, -2], unit: 0.5, ...sums}, logit, 'x', pellucid).verdict",
            [sums, logit],
        )
        assert result == verdict


@pytest.mark.slow
def test_shared_scale_changes_the_limits(page: Any) -> None:
    choose(page, image=2, method="lrp.epsilon", position=0)
    data = made_data(page)
    ends = page.locator("#explain .ends span")
    own, shared = data["parts"][0]["limits"][1][2][0], data["parts"][0]["shared_limits"][1][2]
    assert own != shared
    assert ends.all_text_contents() == [digits(-own), "0", f"+{digits(own)}"]
    assert f"The color scale, ±{digits(own)}, is this map's own" in page.locator("#explain .limit").inner_text()
    page.get_by_label("shared by all classes").check()
    assert ends.all_text_contents() == [digits(-shared), "0", f"+{digits(shared)}"]
    assert (
        f"The color scale, ±{digits(shared)}, is shared by all classes" in page.locator("#explain .limit").inner_text()
    )


def made_data(tab: Any) -> Any:
    return json.loads(tab.locator("#data-explain").text_content())


@pytest.mark.slow
def test_classes_have_probabilities_and_the_predicted_is_first(page: Any) -> None:
    choose(page, image=1)
    options = page.get_by_label("Class", exact=True).locator("option").all_text_contents()
    assert options == ["<b>owl · 50.0% · predicted", "dog · 30.0% · true", "cat · 20.0%"]
    answer = page.locator("#explain .answer").inner_text()
    assert answer == (
        "Test image 11 shows dog and is predicted as <b>owl with confidence 50.0%. Class <b>owl has logit 1.50."
    )
    labels = page.locator("#explain .strip label").all_inner_texts()
    assert [text.strip() for text in labels] == ["dog → <b>owl", "cat", "<b>owl"]


@pytest.mark.slow
def test_small_maps_select_method_and_class(page: Any) -> None:
    methods, classes = (page.get_by_role("group", name=name, exact=True) for name in ("Methods", "Classes"))
    methods.get_by_role("button", name="lrp.epsilon").press("Enter")
    assert page.get_by_label("Method", exact=True).input_value() == "lrp.epsilon"
    assert methods.get_by_role("button", name="lrp.epsilon").evaluate("one => one === document.activeElement")
    classes.get_by_role("button", name="dog").click()
    assert page.get_by_label("Class", exact=True).input_value() == "1"
    assert [one.get_attribute("aria-pressed") for one in classes.get_by_role("button").all()] == [
        "false",
        "true",
        "false",
    ]
    assert str(digits(relevance(1, 0, 1, 0, 0))) in hover(page, 0, 0)


@pytest.mark.slow
def test_downsampled_maps_show_the_mean_pixel(tmp_path: Path, chromium: Any) -> None:
    arrays, numbers = gallery(channels=3, side=(2 * HEIGHT, 2 * WIDTH))
    keep(tmp_path, arrays, numbers | {"shrunk_from": [48, 32]})
    with opened(chromium, write_report(tmp_path)) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        choose(tab, image=0)
        means = np.floor(arrays["source"][0, :, 2:4, 4:6].mean((1, 2)) + 0.5).astype(int)
        assert f"mean pixel about ({', '.join(map(str, means))}) of 255" in hover(tab, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_section_fits_a_phone_and_is_accessible(folder: Path, chromium: Any, scheme: str) -> None:
    with opened(chromium, write_report(folder), viewport={"width": 390, "height": 844}, color_scheme=scheme) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert faults(tab, "#explain") == []


@pytest.mark.slow
def test_browser_without_decompression_shows_a_notice(folder: Path, chromium: Any) -> None:
    with opened(chromium, write_report(folder)) as tab:
        tab.add_init_script("delete window.DecompressionStream")
        tab.reload()
        tab.wait_for_selector("#explain .notice")
        assert "cannot be shown: DecompressionStream is not defined" in tab.locator("#explain").inner_text()
