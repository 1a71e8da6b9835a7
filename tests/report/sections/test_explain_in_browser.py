"""Finding, linking, computing and saving relevance maps on the page, in a real browser."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.report.sections.test_explain import HEIGHT, WIDTH, digits, gallery, pairs
from tests.report.sections.test_explain import keep as keep_maps

import browser
from offline_page import faults, opened
from pellucid.plots.colours import scale_limit, signed_norm, signed_palette
from pellucid.report import write_report
from pellucid.storage.store import Store
from pretended_run import cell_images, keep

pytestmark = pytest.mark.slow

COUNTS = [[2, 1, 0], [0, 2, 0], [0, 0, 2]]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as one:
        yield one


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with three images of many classes, eight of two classes, and thumbnails of others, from index 100."""
    folder = tmp_path_factory.mktemp("explain")
    keep_maps(folder, *gallery())
    keep_maps(folder, *pairs(), name="pairs")
    store = Store(folder)
    keep(store, "confusion_matrix", 2, numbers={"counts": COUNTS, "classes": ["cat", "dog", "<b>owl"]})
    keep(store, "confusion_matrix", 2, name="images", **cell_images(COUNTS))
    return write_report(folder)


@pytest.fixture
def page(path: Path, chromium: Any) -> Iterator[Any]:
    with opened(chromium, path) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        yield tab


def go(tab: Any, fragment: str) -> None:
    tab.evaluate("(fragment) => { location.hash = fragment; }", fragment)


def answer(tab: Any) -> str:
    return str(tab.locator("#explain .answer").inner_text())


def listed(tab: Any) -> list[str]:
    return [
        str(index)
        for index in tab.locator("#explain .strip label:visible input").evaluate_all("all => all.map(one => one.value)")
    ]


def shown(tab: Any) -> dict[str, Any]:
    return dict(tab.evaluate("() => ({...pellucid.place})"))


def test_images_are_listed_by_confidence_and_filtered(page: Any) -> None:
    # misclassified ones by falling confidence, then the correct ones
    mistakes = ["501", "504", "503", "500", "11", "502"]
    assert listed(page) == [*mistakes, "7", "13", "505", "506", "507"]
    assert answer(page).startswith("Test image 501 shows cat and is predicted as <b>owl with confidence 99.0%.")
    outcome = page.get_by_role("group", name="Show")
    assert [text.strip() for text in outcome.locator("label").all_inner_texts()] == [
        "all (11)",
        "misclassified (6)",
        "correct (5)",
    ]
    outcome.get_by_label("misclassified").check()
    assert listed(page) == mistakes
    page.get_by_label("Prediction", exact=True).select_option(label="<b>owl")
    assert listed(page) == ["501", "503", "11"]
    page.get_by_label("True class", exact=True).select_option(label="dog")
    assert listed(page) == ["503", "11"]
    page.get_by_label("True class", exact=True).select_option(label="<b>owl")
    assert listed(page) == []
    assert page.locator("#explain .none").inner_text() == "No stored image matches."
    outcome.get_by_label("correct").check()
    assert listed(page) == ["13", "507"]
    page.get_by_role("button", name="Next").click()
    assert (answer(page).split(" shows")[0], page.locator("#explain .position").inner_text()) == (
        "Test image 13",
        "1 of 2",
    )
    page.get_by_role("button", name="Next").click()
    assert answer(page).startswith("Test image 507 shows <b>owl and is classified correctly")
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_role("button", name="Previous").press("Enter")
    assert shown(page)["image"] == 13


def test_only_the_method_that_is_shown_is_decoded(path: Path, chromium: Any) -> None:
    with opened(chromium, path, is_lazy=True) as tab:
        tab.evaluate(
            "() => { window.count = 0; const unpack = pellucid.unpack;"
            "pellucid.unpack = (text) => { window.count += 1; return unpack(text); }; }"
        )
        tab.evaluate("() => { pellucid.ensure('explain'); }")
        tab.wait_for_selector("#explain[data-ready]", state="attached")
        # the images of both parts, and one method of one part
        assert tab.evaluate("window.count") <= 3 + len(tab.evaluate("pellucid.withImages"))
        thumbnails = tab.locator("#explain .strip canvas")
        # 300 pixels is the width of a canvas that was never painted
        assert thumbnails.evaluate_all("all => all.every(one => one.width === 300)")
        tab.locator("#explain .strip").scroll_into_view_if_needed()
        browser.until(tab, lambda: thumbnails.evaluate_all("all => all.every(one => one.width === 4)"))


def test_address_restores_image_method_and_class(path: Path, page: Any, chromium: Any) -> None:
    page.locator("#explain .strip input[value='503']").check()
    page.get_by_label("Method", exact=True).select_option("gradient")
    page.get_by_label("Class", exact=True).select_option(label="dog · 30.0% · true")
    place = {"section": "explain", "image": 503, "method": "gradient", "class": 1}
    assert shown(page).items() >= place.items()
    address = page.url
    for restore in ("reload", "open"):
        with opened(chromium, path, is_lazy=True) as tab:
            if restore == "open":
                go(tab, address.partition("#")[2])
            else:
                tab.goto(address)
                tab.reload()
            tab.wait_for_selector("#explain[data-ready]")
            browser.until(tab, lambda tab=tab: answer(tab).startswith("Test image 503"))
            assert tab.get_by_label("Method", exact=True).input_value() == "gradient"
            assert tab.get_by_label("Class", exact=True).input_value() == "1"
            assert shown(tab).items() >= place.items()
    # the browser's back button returns to the image before
    page.evaluate("() => { pellucid.go({section: 'explain', image: 7}); }")
    browser.until(page, lambda: answer(page).startswith("Test image 7"))
    page.go_back()
    browser.until(page, lambda: answer(page).startswith("Test image 503"))
    assert page.get_by_label("Class", exact=True).input_value() == "1"


def test_link_names_what_is_shown(page: Any) -> None:
    assert shown(page)["image"] is None
    button = page.locator("#explain .link")
    button.click()
    browser.until(page, lambda: button.inner_text() != "Copy link")
    assert shown(page).items() >= {"section": "explain", "image": 501, "method": "lrp.epsilon", "class": 2}.items()
    assert "#explain&" in page.url


def test_invalid_addresses_fall_back_with_a_note(page: Any) -> None:
    state = page.locator("#explain .state")
    for fragment, note, expected in [
        ("#explain&image=99999", "Test image 99999 is not stored in the page;", "Test image 501"),
        ("#explain&image=7&method=nonsense", "There are no maps by nonsense.", "Test image 7"),
        ("#explain&image=503&class=0", "There is no map of this image for class cat.", "Test image 503"),
        ("#explain&image=503&class=77", "There is no map of this image for class 77.", "Test image 503"),
        ("#explain&image=13", "", "Test image 13"),
    ]:
        go(page, fragment)
        browser.until(page, lambda note=note: state.inner_text().startswith(note) and (note or not state.inner_text()))
        browser.until(page, lambda expected=expected: answer(page).startswith(expected))
        assert page.locator("#explain .map").is_visible()


def test_image_without_maps_is_shown_with_its_prediction(page: Any) -> None:
    go(page, "#explain&image=102")
    browser.until(page, lambda: answer(page).startswith("Test image 102"))
    assert answer(page) == "Test image 102 shows cat and is predicted as dog with confidence 52.0%."
    assert page.locator("#explain .state").inner_text() == (
        "The page stores no maps of this image; pellucid serve RUN computes them."
    )
    assert page.locator("#explain .image canvas").evaluate("one => [one.width, one.height]") == [4, 4]
    for part in (".map", ".over", ".certificate", ".methods", ".controls", ".picture", ".values"):
        assert page.locator(f"#explain {part}").is_hidden(), part
    assert listed(page)[0] == "102"
    page.get_by_label("Index in the test set").fill("501")
    page.get_by_label("Index in the test set").press("Enter")
    browser.until(page, lambda: answer(page).startswith("Test image 501"))
    assert page.locator("#explain .map").is_visible()
    page.get_by_label("Index in the test set").fill("many")
    page.get_by_role("button", name="Open").click()
    assert "a whole number" in page.locator("#explain .state").inner_text()


RUN_MODEL = """() => {
    const bytes = Uint8Array.from({length: 16}, (_, place) => 10 * place);
    const image = {index: 900, size: [4, 4], channels: 1, bytes,
        label: 1, prediction: 0, confidence: 0.7, isExact: true};
    pellucid.offerImages(async (index) => (index === 900 ? image : null));
    pellucid.modelInput = [1, 4, 4];
    pellucid.runModel = async (input, label) => {
        const gradient = Float32Array.from(input, () => label - 1);
        const times = Float32Array.from(input, (value) => value * (label - 1));
        const sum = times.reduce((a, b) => a + b, 0);
        return {logits: [3, 2, 1], probabilities: [0.7, 0.2, 0.1],
            maps: {gradient, input_x_gradient: times, "lrp.epsilon": times},
            certificate: {logit: sum + 0.5, bias: 0.5, stabiliser: 0, constant: 0}};
    };
}"""


def test_network_in_the_page_computes_maps_of_any_image_and_class(page: Any) -> None:
    page.evaluate(RUN_MODEL)
    go(page, "#explain&image=900&method=gradient&class=2")
    browser.until(page, lambda: answer(page).startswith("Test image 900 shows dog and is predicted as cat"))
    assert answer(page).endswith("Class <b>owl has probability 10.0% and logit 1.00.")
    options = page.get_by_label("Class", exact=True).locator("option").all_text_contents()
    assert options == [
        "cat · 70.0% · predicted · computed here",
        "dog · 20.0% · true · computed here",
        "<b>owl · 10.0% · computed here",
    ]
    page.locator("#explain .map canvas").focus()
    page.keyboard.press("ArrowUp")
    readout = page.locator("#explain .readout")
    assert readout.inner_text() == "Row 2, column 2: pixel 100 of 255, relevance +1.00."
    page.get_by_label("Method", exact=True).select_option("lrp.epsilon")
    share = 100 * 100 / sum(range(0, 160, 10))
    assert readout.inner_text() == (
        f"Row 2, column 2: pixel 100 of 255, relevance +{100 / 255:.3f}, {share:.1f}% of the expected sum."
    )
    assert page.locator("#explain .balance").inner_text().startswith("Complete: the relevance sums to the expected sum")
    assert "Computed in this page." in page.locator("#explain .limit").inner_text()
    # maps of stored images are for two classes; the network computes the others
    go(page, "#explain&image=503&method=gradient")
    browser.until(page, lambda: answer(page).startswith("Test image 503"))
    assert page.get_by_label("Class", exact=True).locator("option").count() == 2  # its pixels have another size


SERVED = """() => {
    const live = document.createElement("script");
    live.id = "data-live";
    live.type = "application/json";
    live.textContent = JSON.stringify({methods: [{name: "lrp.gamma"}, {name: "gradient"}]});
    document.body.append(live);
    pellucid.served = async ({index, method, class: label}) => {
        if (label === 0) throw new Error("The server is busy.");
        const values = Float32Array.from({length: 6}, (_, place) => index + 10 * label + place);
        return {values, size: [2, 3], limit: 600, probabilities: [0.1, 0.2, 0.7], logit: label,
            sums: {expected: 100, residual: 0.5, allowed: 0.1}};
    };
}"""


def test_server_computes_maps_by_any_method(path: Path, chromium: Any) -> None:
    with opened(chromium, path, is_lazy=True) as tab:
        tab.evaluate(SERVED)
        go(tab, "#explain&image=503&method=lrp.gamma&class=1")
        tab.wait_for_selector("#explain[data-ready]")
        browser.until(tab, lambda: "Computed by the server." in tab.locator("#explain .limit").inner_text())
        tab.locator("#explain .map canvas").focus()
        tab.keyboard.press("ArrowUp")
        readout = tab.locator("#explain .readout")
        assert readout.inner_text().startswith("Row 1, column 1: ")
        assert readout.inner_text().endswith("relevance +517, 517.0% of the expected sum.")
        assert tab.locator("#explain .balance").inner_text() == (
            "Incomplete: the relevance misses 0.5% of the expected sum, more than the tolerance of the method."
        )
        # gradient maps of cat and dog are not both stored
        tab.get_by_label("Class", exact=True).select_option("0")
        state = tab.locator("#explain .state")
        browser.until(tab, lambda: state.inner_text() == "There is no map: The server is busy.")
        assert tab.locator("#explain .map").is_hidden()
        go(tab, "#explain&image=503&method=gradient&class=1")
        browser.until(tab, lambda: tab.locator("#explain .map").is_visible())
        assert "Computed" not in tab.locator("#explain .limit").inner_text()  # stored


def test_image_of_unknown_class_is_shown(page: Any) -> None:
    page.evaluate(
        """() => pellucid.offerImages(async (index) => (index === 901 ? {index, size: [1, 2], channels: 3,
            bytes: new Uint8Array(6), label: null, prediction: null, confidence: null, isExact: false} : null))"""
    )
    go(page, "#explain&image=901&method=gradient&class=1")
    browser.until(page, lambda: answer(page) == "Test image 901.")
    assert listed(page)[0] == "901"
    assert "stores no maps of this image" in page.locator("#explain .state").inner_text()


def saved(tab: Any, button: str) -> tuple[str, bytes]:
    with tab.expect_download() as download:
        tab.get_by_role("button", name=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_values_and_pictures_are_saved(path: Path, chromium: Any) -> None:
    arrays, numbers = pairs()
    plain = arrays["maps"][1, 3, 1] / 127.0 * arrays["scales"][1, 3, 1]
    limit = scale_limit(plain)
    # a file has the light colors in dark mode, too
    with opened(chromium, path, color_scheme="dark") as tab:
        tab.wait_for_selector("#explain[data-ready]")
        go(tab, "#explain&image=503&method=lrp.epsilon&class=1")
        browser.until(tab, lambda: answer(tab).startswith("Test image 503"))
        name, content = saved(tab, "Save map only")
        assert name == "test_image_503_lrp.epsilon_class_1_map.png"
        picture = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
        factor = picture.shape[0] // HEIGHT
        assert picture.shape == (HEIGHT * factor, WIDTH * factor, 3)
        assert factor * HEIGHT >= 512
        expected = signed_palette()(signed_norm(limit)(plain.clip(-limit, limit)))[..., :3] * 255
        np.testing.assert_allclose(picture[factor // 2 :: factor, factor // 2 :: factor], expected, atol=6)
        name, content = saved(tab, "Save PNG")
        assert name == "test_image_503_lrp.epsilon_class_1.png"
        figure = Image.open(BytesIO(content)).convert("RGB")
        assert figure.width >= 1280
        assert figure.getpixel((2, 2)) == (255, 255, 255)
        name, content = saved(tab, "Download values")
        record = json.loads(content)
    assert name == "test_image_503_lrp.epsilon_class_1.json"
    np.testing.assert_allclose(record["relevance"], plain, rtol=1e-5)
    assert (record["index"], record["method"], record["class"], record["class_name"]) == (503, "lrp.epsilon", 1, "dog")
    assert record["expected"] == pytest.approx(numbers["expected"]["lrp.epsilon"][3][1])
    assert (record["residual"], record["allowed"]) == (0.0, 0.001)
    assert record["color_limit"] == pytest.approx(limit, rel=1e-5)
    assert record["step"] == pytest.approx(arrays["scales"][1, 3, 1] / 127, rel=1e-5)


def test_finger_reads_pixels(path: Path, chromium: Any) -> None:
    arrays, _ = pairs()
    options = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(chromium, path, **options) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        canvas = tab.locator("#explain .map canvas")
        canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
        box = canvas.bounding_box()
        place = lambda row, column: {  # noqa: E731
            "x": box["x"] + (column + 0.5) * box["width"] / WIDTH,
            "y": box["y"] + (row + 0.5) * box["height"] / HEIGHT,
        }
        tab.touchscreen.tap(*place(1, 1).values())
        readout = tab.locator("#explain .readout")
        assert readout.inner_text().startswith("Row 1, column 1: ")
        fingers = tab.context.new_cdp_session(tab)
        fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [place(1, 1)]})
        for row, column in ((2, 1), (3, 2), (4, 2)):
            fingers.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place(row, column)]})
            browser.until(
                tab, lambda row=row, column=column: readout.inner_text().startswith(f"Row {row}, column {column}: ")
            )
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        value = arrays["maps"][1, 1, 0, 4, 2] / 127 * arrays["scales"][1, 1, 0]
        assert f"relevance {'+' if value > 0 else ''}{digits(value)} " in readout.inner_text()
        tab.touchscreen.tap(box["x"] + 5, box["y"] - 40)
        assert readout.inner_text() == ""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_list_is_accessible_and_fits(path: Path, chromium: Any, scheme: str, width: int) -> None:
    with opened(chromium, path, viewport={"width": width, "height": 844}, color_scheme=scheme) as tab:
        tab.wait_for_selector("#explain[data-ready]")
        tab.locator("#explain .finding").evaluate("one => { one.open = true; }")
        tab.locator("#explain .certificate details").evaluate("one => { one.open = true; }")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert faults(tab, "#explain") == []
        go(tab, "#explain&image=102")
        browser.until(tab, lambda: answer(tab).startswith("Test image 102"))
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert faults(tab, "#explain") == []
