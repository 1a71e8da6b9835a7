"""The live panel of `pellucid serve` in a real browser: its maps, options and errors are those of the server."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import chromium, until
from offline_page import faults
from pellucid.attribution import METHODS, create_analyzer
from pellucid.cli import main
from pellucid.config import ServeConfig
from pellucid.run.serving import ServedPage, load_live_run
from pellucid.run.serving_http import LiveServer

pytestmark = pytest.mark.slow

RUN = (
    "--dataset digits --epochs 1 --limit-train 300 --limit-test 40 --batch-size 32 --threads 1 "
    "--hooks confusion_matrix,gallery --methods gradient"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("served") / "save"
    assert main(["run", *RUN.split(), "--save", str(folder)]) == 0
    live = load_live_run(ServeConfig(folder))
    with LiveServer(live, ServedPage(folder, live), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, server: LiveServer) -> Iterator[Any]:
    """Open the served page; afterwards, check that only its server was asked and that the console is empty."""
    messages: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(place: str = "#live", width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(server.address + place)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    # the browser notes each answer with an error
    assert [text for text in messages if not re.search(r"status of (400|422)", text)] == []
    assert [url for url in requests if not url.startswith((server.address, "data:", "blob:"))] == []


def shown(tab: Any, text: str) -> None:
    """Wait until a map is shown: method, class and index."""
    until(tab, lambda: tab.locator("#live").get_attribute("data-shown") == text)


def prediction(server: LiveServer, index: int) -> int:
    assert server.live.data is not None
    return int(server.live.run.model(server.live.data.test.floats([index])).argmax())


def canvas_steps(tab: Any) -> np.ndarray:
    """Return the palette step of each pixel of the map, from −127 to 127."""
    pixels = tab.evaluate("""() => {
        const canvas = document.querySelector("#live .map canvas").cloneNode();
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(document.querySelector("#live .map canvas"), 0, 0);
        return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
    }""")
    palette = json.loads(tab.locator("#data").text_content())["palette"]
    table = {tuple(int(palette[6 * n + d : 6 * n + d + 2], 16) for d in (0, 2, 4)): n - 127 for n in range(255)}
    return np.array([table[tuple(pixels[4 * n : 4 * n + 3])] for n in range(len(pixels) // 4)]).reshape(28, 28)


def test_the_map_in_the_address_is_shown(visit: Any, server: LiveServer) -> None:
    live = server.live
    assert live.data is not None
    tab = visit("#live&image=7&method=lrp.epsilon&class=3")
    shown(tab, "lrp.epsilon 3 7")
    explanation = create_analyzer("lrp.epsilon", live.run.model).explain(live.data.test.floats([7]), 3)
    values = explanation.relevance[0, 0].numpy()
    limit = float(tab.locator("#live .ends span").last.text_content())
    np.testing.assert_allclose(canvas_steps(tab) / 127, np.clip(values / limit, -1, 1), atol=0.02)
    assert tab.locator("#live .certificate").text_content().replace("−", "-") == explanation.verdict(0)
    assert f"Predicted as {prediction(server, 7)}" in tab.locator("#live .prediction").text_content()
    assert "Computed in" in tab.locator("#live .time").text_content()
    assert tab.locator("#live-class").input_value() == "3"


def test_image_method_class_and_options_can_be_chosen(visit: Any, server: LiveServer) -> None:
    live = server.live
    assert live.data is not None
    tab = visit()
    shown(tab, f"lrp.epsilon_plus_flat {prediction(server, 0)} 0")
    assert tab.locator("#live-method option").count() == len(METHODS.names())
    tab.locator("#live-index").fill("12")
    shown(tab, f"lrp.epsilon_plus_flat {prediction(server, 12)} 12")
    tab.locator("#live-method").select_option("smoothgrad")
    tab.locator("#live-class").select_option("5")
    shown(tab, "smoothgrad 5 12")
    before = canvas_steps(tab)
    tab.locator("#live-option-samples").fill("3")
    until(tab, lambda: not np.array_equal(canvas_steps(tab), before))
    expected = create_analyzer("smoothgrad", live.run.model, samples=3).analyze(live.data.test.floats([12]), 5)
    steps = canvas_steps(tab)
    assert np.corrcoef(steps.ravel(), expected.numpy().ravel())[0, 1] > 0.99
    tab.locator("#live-option-samples").fill("0")
    assert "samples must be a whole number, from 1 to 4096." in tab.locator("#live .state").text_content()
    assert tab.evaluate("location.hash") == "#live&epoch=1&image=12&method=smoothgrad&class=5"
    tab.reload()
    shown(tab, "smoothgrad 5 12")


def test_random_and_misclassified_images(visit: Any, server: LiveServer) -> None:
    live = server.live
    assert live.data is not None
    predictions = live.run.model(live.data.test.floats()).argmax(1)
    wrong = (predictions != live.data.test.labels).nonzero().flatten().tolist()
    tab = visit("#live&image=0&method=gradient")
    tab.get_by_role("button", name="Misclassified").click()
    first = next(index for index in wrong if index > 0)
    shown(tab, f"gradient {int(predictions[first])} {first}")
    assert f"True class: {int(live.data.test.labels[first])}" in tab.locator("#live .prediction").text_content()
    tab.get_by_role("button", name="Random").click()
    until(tab, lambda: "&image=" in tab.evaluate("location.hash"))
    index = int(tab.locator("#live-index").input_value())
    assert 0 <= index < 40
    shown(tab, f"gradient {int(predictions[index])} {index}")


def test_pictures_can_be_opened_and_inverted(visit: Any, server: LiveServer, tmp_path: Path) -> None:
    live = server.live
    assert live.data is not None
    pixels = live.data.test.pixels[9, 0].numpy()
    Image.fromarray(255 - pixels).save(tmp_path / "digit.png")
    tab = visit("#live&image=9&method=gradient")
    shown(tab, f"gradient {prediction(server, 9)} 9")
    before = canvas_steps(tab)
    tab.locator("#live-file").set_input_files(tmp_path / "digit.png")
    until(tab, lambda: "Your image" in tab.locator("#live .image figcaption").text_content())
    tab.get_by_label("Invert colors").check()
    until(tab, lambda: np.abs(canvas_steps(tab) - before).max() <= 1)
    (tmp_path / "text.png").write_text("no picture")
    tab.locator("#live-file").set_input_files(tmp_path / "text.png")
    until(tab, lambda: "cannot be read as an image" in tab.locator("#live .state").text_content())


def test_methods_that_do_not_apply_and_cancellation(visit: Any, server: LiveServer) -> None:
    tab = visit("#live&image=1&method=cam")
    until(tab, lambda: "global average pooling" in tab.locator("#live .state").text_content())
    tab.locator("#live-method").select_option("shapley_sampling")
    tab.locator("#live-option-patch").fill("1")
    tab.locator("#live-option-permutations").fill("4096")
    tab.get_by_role("button", name="Cancel").click()
    until(tab, lambda: tab.locator("#live .state").text_content() == "Canceled.")
    until(tab, lambda: server.live._job is None)
    # a value that was typed right before is canceled, too
    tab.locator("#live-option-permutations").fill("4095")
    until(tab, tab.get_by_role("button", name="Cancel").is_visible)
    tab.evaluate("""() => {
        const field = document.getElementById("live-option-permutations");
        field.value = "4094";
        field.dispatchEvent(new Event("input"));
        document.querySelector("#live .cancel").click();
    }""")
    until(tab, lambda: server.live._job is None)
    tab.wait_for_timeout(500)  # longer than the page waits for the end of the typing
    assert server.live._job is None
    assert tab.locator("#live .state").text_content() == "Canceled."
    tab.locator("#live-method").select_option("gradient")
    shown(tab, f"gradient {prediction(server, 1)} 1")


def test_other_sections_can_ask_for_maps_and_images(visit: Any, server: LiveServer) -> None:
    live = server.live
    assert live.data is not None
    tab = visit("")
    made = tab.evaluate("""async () => {
        const map = await pellucid.served({ index: 3, method: "gradient", class: 2 });
        const pixels = Float32Array.from(map.image.bytes, (byte) => byte / 255);
        const again = await pellucid.served({ pixels, method: "gradient", class: 2 });
        const image = await pellucid.findImage(3);
        return { values: [...map.values], again: [...again.values], bytes: [...image.bytes], label: image.label };
    }""")
    expected = create_analyzer("gradient", live.run.model).analyze(live.data.test.floats([3]), 2)[0, 0].numpy()
    np.testing.assert_allclose(np.reshape(made["values"], (28, 28)), expected, atol=1e-6)
    np.testing.assert_allclose(made["again"], made["values"], atol=1e-6)
    assert made["bytes"] == live.data.test.pixels[3].flatten().tolist()
    assert made["label"] == int(live.data.test.labels[3])
    message = tab.evaluate("pellucid.served({ index: 99, method: 'gradient' }).catch((error) => error.message)")
    assert message == "There is no test image 99; expected an index from 0 to 39."


def test_relevance_maps_that_are_not_stored_are_computed_by_the_server(visit: Any, server: LiveServer) -> None:
    live = server.live
    assert live.data is not None
    tab = visit("#explain&image=33&method=lrp.gamma&class=2")
    until(tab, lambda: "Computed by the server" in tab.locator("#explain").text_content())
    expected = create_analyzer("lrp.gamma", live.run.model).analyze(live.data.test.floats([33]), 2)[0, 0].numpy()
    row, column = np.unravel_index(np.abs(expected).argmax(), expected.shape)
    canvas = tab.locator("#explain .map canvas").first
    box = canvas.bounding_box()
    place = {"x": (column + 0.5) * box["width"] / 28, "y": (row + 0.5) * box["height"] / 28}
    canvas.hover(position=place, force=True)
    readout = f"{abs(expected[row, column]):#.3g}"
    until(tab, lambda: readout in tab.locator("#explain .readout").text_content())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_panel_is_accessible_and_fits(visit: Any, server: LiveServer, width: int, scheme: str) -> None:
    tab = visit("#live&image=2&method=integrated_gradients", width, color_scheme=scheme)
    shown(tab, f"integrated_gradients {prediction(server, 2)} 2")
    assert faults(tab, "#live") == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator("#live-method").focus()
    tab.keyboard.press("ArrowDown")
    until(tab, lambda: (tab.locator("#live").get_attribute("data-shown") or "").split()[0] != "integrated_gradients")
