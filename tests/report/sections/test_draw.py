"""The section `draw`: its data, and the network in a browser, with mouse, touch, files and test images."""

import base64
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import nn

import browser
from networks import random_network
from offline_page import faults, opened
from pellucid import create_analyzer
from pellucid.core.contracts import Artifact, ImageSet
from pellucid.data import Request, load_data
from pellucid.hooks import Scene
from pellucid.hooks.live import Live
from pellucid.models import MODELS
from pellucid.report import Material, write_report
from pellucid.report.sections.draw import draw
from pellucid.storage.store import Store
from pretended_run import metrics_line, run_record

Point = tuple[float, float]

DIGITS: dict[int, list[list[Point]]] = {
    0: [[(.5, .15), (.35, .2), (.27, .4), (.27, .6), (.35, .8), (.5, .87), (.65, .8), (.73, .6), (.73, .4), (.65, .2),
         (.5, .15)]],
    1: [[(.42, .3), (.52, .15), (.52, .85)]],
    2: [[(.3, .3), (.38, .18), (.55, .15), (.68, .25), (.66, .42), (.5, .6), (.3, .84), (.72, .84)]],
    3: [[(.32, .2), (.5, .14), (.66, .24), (.6, .42), (.45, .49), (.62, .55), (.7, .7), (.6, .84), (.42, .87),
         (.3, .8)]],
    4: [[(.35, .15), (.3, .52), (.75, .52)], [(.62, .2), (.58, .87)]],
    5: [[(.7, .16), (.38, .16), (.35, .47), (.55, .44), (.7, .58), (.66, .78), (.48, .87), (.3, .8)]],
    6: [[(.62, .14), (.42, .32), (.32, .6), (.38, .82), (.55, .87), (.68, .75), (.64, .58), (.5, .52), (.34, .64)]],
    7: [[(.28, .17), (.72, .17), (.55, .5), (.44, .86)]],
    8: [[(.5, .5), (.36, .38), (.36, .22), (.5, .14), (.64, .22), (.64, .38), (.5, .5), (.34, .64), (.34, .8),
         (.5, .87), (.66, .8), (.66, .64), (.5, .5)]],
    9: [[(.66, .32), (.56, .17), (.42, .17), (.34, .3), (.4, .46), (.55, .48), (.66, .34), (.64, .6), (.58, .86)]],
}  # fmt: skip
"""Strokes of each digit, in shares of the board."""


def scene_of(model: nn.Module, test: ImageSet, classes: tuple[str, ...]) -> Scene:
    with torch.no_grad():
        logits = torch.cat([model.eval()(test.floats(part)) for part in torch.arange(len(test)).split(1000)])
    return Scene(2, model, torch.device("cpu"), test, logits, classes, "Pets", seed=0)


def keep(folder: Path, artifact: Artifact, classes: tuple[str, ...]) -> Store:
    store = Store(folder)
    store.begin(run_record(classes))
    store.add_metrics(metrics_line(1))
    store.keep(store.pack("live", 2, artifact, None))
    return store


def small_scene(name: str = "no bias", count: int = 8) -> Scene:
    model, size = random_network(name)
    pixels = torch.zeros(count, *size, dtype=torch.uint8)
    pixels[:, :, 3:9, 3:7] = 200
    pixels[::2, :, 4:6, 4:6] = 0
    return scene_of(model, ImageSet(pixels, torch.arange(count) % 5), tuple("abcde"))


# --- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no bias", "pooled"])
def test_section_carries_the_network(name: str, tmp_path: Path) -> None:
    (artifact,) = Live().run(small_scene(name))
    material = Material(keep(tmp_path, artifact, tuple("abcde")))
    section = draw(material)
    assert section is not None
    model = section.data["model"]
    assert model["program"] == artifact.numbers["program"]
    for part, kind in (("weights", np.float32), ("indices", np.int32)):
        values = np.frombuffer(zlib.decompress(base64.b64decode(model[part])), kind)
        assert np.array_equal(values, artifact.arrays[part])
    assert (len(artifact.arrays["indices"]) > 0) == (name == "pooled")  # its padding is a move
    assert (section.data["drawing"] is None) == (name == "pooled")
    assert section.data["examples"]["indices"] == artifact.numbers["indices"]
    assert section.data["has_images"]
    assert section.title.startswith("Draw:" if name == "no bias" else "Try an image:")
    assert material.damages == []


def test_a_network_that_cannot_run_has_one_line_with_the_reason(tmp_path: Path) -> None:
    (artifact,) = Live(weights=10).run(small_scene())
    store = keep(tmp_path, artifact, tuple("abcde"))
    section = draw(Material(store))
    assert section is not None
    assert section.data["reason"] == artifact.numbers["reason"]
    page = write_report(store.folder).read_text("utf-8")
    assert f"This network cannot be run in the page: {artifact.numbers['reason']}." in page
    assert "pellucid serve RUN" in page
    assert "data-draw" not in page.partition("<script")[0]


def test_only_the_last_network_of_an_extended_run_counts(tmp_path: Path) -> None:
    (artifact,), (left_out,) = Live().run(small_scene()), Live(weights=10).run(small_scene())
    store = keep(tmp_path, artifact, tuple("abcde"))
    store.keep(store.pack("live", 4, left_out, None))
    section = draw(Material(store))
    assert section is not None
    assert section.data["reason"] == left_out.numbers["reason"]
    store.keep(store.pack("live", 6, artifact, None))
    section = draw(Material(store))
    assert section is not None
    assert "model" in section.data


def test_a_run_without_the_hook_has_no_section(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(run_record())
    assert draw(Material(store)) is None


@pytest.mark.parametrize("damage", ["examples", "labels", "program"])
def test_invalid_files_are_noted(damage: str, tmp_path: Path) -> None:
    (artifact,) = Live().run(small_scene())
    arrays, numbers = dict(artifact.arrays), dict(artifact.numbers)
    if damage == "examples":
        arrays["examples"] = arrays["examples"][:, :, :-1]
    else:
        numbers[damage] = []
    material = Material(keep(tmp_path, replace(artifact, arrays=arrays, numbers=numbers), tuple("abcde")))
    assert draw(material) is None
    assert len(material.damages) == 1


# --- the browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as running:
        yield running


@pytest.fixture(scope="module")
def mnist(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A network trained on MNIST for a few seconds."""
    request = Request(tmp_path_factory.mktemp("data"), mirrors=(str(mnist_files),))
    splits = load_data("mnist", request, limit_train=8_000, limit_test=1000)
    torch.manual_seed(0)
    model = MODELS["small_cnn"](channels=1, classes=10, image_size=(28, 28))
    images, labels = splits.train.floats(), splits.train.labels
    order = torch.cat([torch.randperm(len(labels)) for _ in range(2)]).split(64)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=len(order))
    for part in order:
        optimizer.zero_grad()
        F.cross_entropy(model(images[part]), labels[part]).backward()
        optimizer.step()
        schedule.step()
    scene = scene_of(model, splits.test, splits.classes)
    assert (scene.logits.argmax(1) == scene.test.labels).double().mean() > 0.96
    return scene


@pytest.fixture(scope="module")
def report(mnist: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (artifact,) = Live().run(mnist)
    return write_report(keep(tmp_path_factory.mktemp("run") / "save", artifact, mnist.classes).folder)


@pytest.fixture
def visit(chromium: Any, report: Path) -> Callable[..., Any]:
    return lambda **options: opened(chromium, report, **options)


def prediction(tab: Any) -> str:
    """Return the prediction for the present drawing, once the page has computed it."""
    browser.until(tab, lambda: tab.locator("#draw").get_attribute("data-pending") is None)
    return str(tab.locator("#draw").get_attribute("data-prediction"))


def place_of(tab: Any) -> Callable[[Point], Point]:
    board = tab.locator("[data-draw] canvas")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    return lambda point: (box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"])


def draw_by_mouse(tab: Any, lines: list[list[Point]], shrink: Callable[[Point], Point] = lambda point: point) -> None:
    place = place_of(tab)
    for line in lines:
        first, *rest = (place(shrink(point)) for point in line)
        tab.mouse.move(*first)
        tab.mouse.down()
        for point in rest:
            tab.mouse.move(*point, steps=2)
        tab.mouse.up()


def draw_by_touch(tab: Any, lines: list[list[Point]]) -> None:
    place, session = place_of(tab), tab.context.new_cdp_session(tab)

    def send(kind: str, *points: Point) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    for line in lines:
        send("touchStart", place(line[0]))
        for start, end in pairwise(line):
            for share in (0.33, 0.67, 1.0):
                send(
                    "touchMove", place((start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])))
                )
        send("touchEnd")


RUN = """async ([images, targets]) => {
  const results = [];
  for (const [number, image] of images.entries()) {
    const { logits, maps, milliseconds } = await pellucid.runModel(Float32Array.from(image), targets[number]);
    results.push([[...logits], ...["gradient", "input_x_gradient", "lrp.epsilon"].map((name) => [...maps[name]])]);
  }
  return results;
}"""


@pytest.mark.slow
def test_maps_of_a_hundred_test_images_are_those_of_torch(mnist: Scene, visit: Callable[..., Any]) -> None:
    images = mnist.test.floats(list(range(100)))
    targets = mnist.logits[:100].argmax(1)
    targets[::3] = (targets[::3] + 1) % 10
    with visit() as tab:
        results = tab.evaluate(RUN, [images.flatten(1).tolist(), targets.tolist()])
    names = ("logits", "gradient", "input_x_gradient", "lrp.epsilon")
    for place, name in enumerate(names):
        own = np.array([result[place] for result in results])
        maps = None if name == "logits" else create_analyzer(name, mnist.model).analyze(images, targets).flatten(1)
        wanted = (mnist.logits[:100] if maps is None else maps).numpy()
        errors = (np.abs(own - wanted) / np.abs(wanted).max(1, keepdims=True)).max(1)
        assert np.quantile(errors, 0.97) <= 1e-4, name
        # the epsilon rule magnifies the rounding of outputs close to 0, which depends on the processor
        assert errors.max() <= (1e-3 if name == "lrp.epsilon" else 1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scale"), [(1280, 1.0), (390, 0.45)])
def test_digits_drawn_with_the_mouse_are_recognized(width: int, scale: float, visit: Callable[..., Any]) -> None:
    right = []
    with visit(viewport={"width": width, "height": 900}) as tab:
        for digit, lines in DIGITS.items():
            # in full, or small in the upper right corner
            draw_by_mouse(tab, lines, lambda point: (1 - scale * (1 - point[0]), scale * point[1]))
            right.append(prediction(tab) == str(digit))
            assert tab.locator("#draw .answer").inner_text().split()[0] == prediction(tab)
            tab.locator("#draw .clear").click()
        assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert sum(right) >= 9


@pytest.mark.slow
def test_digits_drawn_with_a_finger_are_recognized_and_do_not_scroll_the_page(visit: Callable[..., Any]) -> None:
    right = []
    with visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as tab:
        for digit, lines in DIGITS.items():
            place_of(tab)
            before = tab.evaluate("scrollY")
            draw_by_touch(tab, lines)
            right.append(prediction(tab) == str(digit))
            assert tab.evaluate("scrollY") == before
            tab.locator("#draw .clear").tap()
            browser.until(tab, lambda: tab.locator("#draw .hint").is_visible())
    assert sum(right) >= 9, right


@pytest.mark.slow
def test_an_empty_board_has_no_prediction(visit: Callable[..., Any]) -> None:
    with visit() as tab:
        tab.locator("#draw").scroll_into_view_if_needed()
        assert not tab.locator("#draw .outcome").is_visible()
        assert not tab.locator("#draw .maps").is_visible()
        assert tab.locator("#draw .hint").is_visible()
        draw_by_mouse(tab, DIGITS[4])
        assert prediction(tab) == "4"
        tab.locator("#draw .undo").click()
        draw_by_mouse(tab, DIGITS[4][:1])
        tab.locator("#draw .undo").focus()
        tab.keyboard.press("Control+z")
        tab.locator("#draw .undo").click()
        assert prediction(tab) == ""
        assert not tab.locator("#draw .outcome").is_visible()
        tab.locator("#draw .pens input").nth(1).check()
        draw_by_mouse(tab, DIGITS[4])  # erasing nothing is still nothing
        assert not tab.locator("#draw .outcome").is_visible()


@pytest.mark.slow
def test_a_selected_class_is_explained_until_it_is_selected_again(mnist: Scene, visit: Callable[..., Any]) -> None:
    index = int((mnist.test.labels == 3).nonzero()[0])
    with visit(viewport={"width": 390, "height": 844}) as tab:
        tab.evaluate("(index) => pellucid.go({section: 'draw', image: index})", index)
        browser.until(tab, lambda: tab.locator("#draw .maps").is_visible())
        assert tab.locator("#draw .bars button").all_inner_texts()[3].split("\n")[0] == "3"
        shares = mnist.logits[index].softmax(0)
        assert tab.locator("#draw .bars .value").all_inner_texts()[3] in (f"{100 * shares[3]:.1f}%", "> 99.9%")
        eight = tab.locator("#draw .bars button").nth(8)
        eight.click()
        browser.until(tab, lambda: eight.get_attribute("aria-pressed") == "true")
        assert tab.locator("#draw .which-class strong").inner_text() == "8"
        explained = create_analyzer("lrp.epsilon", mnist.model).explain(mnist.test.floats([index]), 8)
        pixels = float(explained.relevance.sum())
        shown = tab.locator("#draw figcaption").nth(3).inner_text()
        assert shown.endswith(f"sum {pixels:+#.3g}".replace("-", "−"))
        text = tab.locator("#draw .sum").inner_text()
        assert text.startswith("LRP-ε adds up to the logit: ")
        assert text.endswith(f"logit {float(mnist.logits[index, 8]):+#.3g}.".replace("-", "−"))
        eight.click()
        browser.until(tab, lambda: tab.locator("#draw .which-class strong").inner_text() == "3")


def file_of(picture: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"name": "digit.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def photo(digit: int, *, paper: int, pen: int) -> Image.Image:
    """Return a noisy picture of 300×400 pixels with a digit off its center."""
    picture = Image.new("L", (400, 300), paper)
    pencil = ImageDraw.Draw(picture)
    for line in DIGITS[digit]:
        pencil.line([(180 + 180 * x, 40 + 200 * y) for x, y in line], fill=pen, width=17, joint="curve")
    noise = np.random.default_rng(0).normal(0, 4, (300, 400))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "pen"), [(235, 40), (20, 220)])
def test_pictures_of_digits_are_recognized_on_bright_and_dark_ground(
    paper: int, pen: int, visit: Callable[..., Any]
) -> None:
    right = []
    with visit() as tab:
        for digit in (2, 3, 5, 7):
            tab.locator("#draw .file input").set_input_files(file_of(photo(digit, paper=paper, pen=pen)))
            browser.until(tab, lambda: prediction(tab) != "")
            assert tab.locator("#draw .invert input").is_checked() == (paper > 128)
            right.append(prediction(tab) == str(digit))
            tab.locator("#draw .clear").click()
    assert sum(right) >= 3


DROP = """([text, name, type]) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const board = document.querySelector("[data-draw]");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    board.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


@pytest.mark.slow
def test_a_dropped_image_of_the_networks_size_is_used_as_it_is(mnist: Scene, visit: Callable[..., Any]) -> None:
    image = mnist.test[[7]]
    file = file_of(Image.fromarray(image.pixels[0, 0].numpy()))
    with visit() as tab:
        tab.locator("#draw").scroll_into_view_if_needed()
        tab.evaluate(DROP, [base64.b64encode(file["buffer"]).decode(), "a.png", "image/png"])
        browser.until(tab, lambda: prediction(tab) != "")
        assert prediction(tab) == str(int(mnist.logits[7].argmax()))
        read = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data]"
        pixels = np.array(tab.locator("#draw .seen canvas").evaluate(read)).reshape(28, 28, 4)[..., 0]
        assert np.array_equal(pixels, image.pixels[0, 0].numpy())
        tab.evaluate(DROP, [base64.b64encode(b"no image").decode(), "<b>.png", "image/png"])
        browser.until(tab, lambda: tab.locator("#draw .problem").is_visible())
        assert tab.locator("#draw .problem").inner_text() == "<b>.png is not an image that the browser can read."


PASTE = """([text, type]) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "", { type }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""


@pytest.mark.slow
def test_a_pasted_photograph_is_resized_and_cropped_for_a_color_network(chromium: Any, tmp_path: Path) -> None:
    model, size = random_network("small_cnn in color")
    random = np.random.default_rng(0)
    pixels = torch.tensor(random.integers(0, 256, (10, *size)), dtype=torch.uint8)
    classes = tuple(f"a name <b>{label}" for label in range(5))
    scene = scene_of(model, ImageSet(pixels, torch.arange(10) % 5), classes)
    (artifact,) = Live().run(scene)
    assert artifact.numbers["drawing"] is None
    page = write_report(keep(tmp_path / "save", artifact, classes).folder)
    # twice the size, with a border on the left and on the right that the crop removes
    photo = np.pad(pixels[3].permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1), ((0, 0), (20, 20), (0, 0)))
    with opened(chromium, page) as tab:
        tab.locator("#draw").scroll_into_view_if_needed()
        tab.evaluate(PASTE, [base64.b64encode(file_of(Image.fromarray(photo))["buffer"]).decode(), "image/png"])
        browser.until(tab, lambda: prediction(tab) != "")
        read = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        shown = np.array(tab.locator("#draw .seen canvas").evaluate(read)).reshape(*size[1:], 4)[..., :3]
        assert np.abs(shown - pixels[3].permute(1, 2, 0).numpy()).mean() < 2
        # a test image, exactly
        tab.locator("#draw .samples button").nth(1).click()
        assert prediction(tab) == str(int(scene.logits[artifact.numbers["indices"][1]].argmax()))
        index = artifact.numbers["indices"][1]
        relevance = create_analyzer("lrp.epsilon", model).explain(scene.test.floats([index])).relevance
        shown = tab.locator("#draw .maps figcaption").nth(2).inner_text()
        assert shown.endswith(f"sum {float(relevance.sum()):+#.3g}".replace("-", "−"))
        assert tab.locator("#draw .fit").is_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_section_is_accessible(width: int, scheme: str, visit: Callable[..., Any]) -> None:
    with visit(viewport={"width": width, "height": 900}, color_scheme=scheme) as tab:
        tab.locator("#draw").scroll_into_view_if_needed()
        assert faults(tab, "#draw") == []
        # without a pointer
        tab.locator("#draw .samples button").nth(2).focus()
        tab.keyboard.press("Enter")
        browser.until(tab, lambda: tab.locator("#draw .maps").is_visible())
        browser.until(tab, lambda: tab.locator("#draw .spoken").inner_text() != "")
        assert tab.locator("#draw .spoken").inner_text().startswith("Predicted: 2 with ")
        assert faults(tab, "#draw") == []
        assert tab.evaluate("document.documentElement.scrollWidth") == width


# --- centering, against a reference ----------------------------------------------------------------------------


def resampled(values: np.ndarray, count: int) -> np.ndarray:
    """Average areas along axis 0, as a matrix product."""
    edges, old = np.arange(count + 1) * len(values) / count, np.arange(len(values))
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return overlap.clip(0) @ values * count / len(values)


def reference(ink: np.ndarray, box: int = 20, side: int = 28) -> np.ndarray:
    """Scale the longer side of a digit to `box` pixels and put its center of mass at pixel (14, 14), as in MNIST."""
    rows, columns = np.nonzero(ink.max(1) > 0.04)[0], np.nonzero(ink.max(0) > 0.04)[0]
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, int(np.floor(size * box / max(cut.shape) + 0.5))) for size in cut.shape)
    scaled = resampled(resampled(cut, height).T, width).T
    shares = scaled / scaled.sum()
    center = shares.sum(1) @ np.arange(height), shares.sum(0) @ np.arange(width)
    places = (int(np.floor(side / 2 - place + 0.5)) for place in center)
    top, left = (min(max(place, 0), side - size) for place, size in zip(places, (height, width), strict=True))
    wide = np.zeros((side, side))
    wide[top : top + height, left : left + width] = scaled
    return wide


CENTER = """([images, size]) => {
  const style = { background: 0, box: 20, center: "mass", at: [14, 14], stroke: 2.5 };
  return images.map((image) => [...pellucid.strokes.centered(Float32Array.from(image), size, [28, 28], style)]);
}"""


@pytest.mark.slow
def test_centering_is_that_of_mnist(mnist: Scene, visit: Callable[..., Any]) -> None:
    random = np.random.default_rng(0)
    blobs = np.zeros((5, 60, 45))
    for blob in blobs:
        top, left, height, width = random.integers([0, 0, 2, 2], [30, 30, 30, 15])
        # noise, because the center of a uniform shape may lie exactly between two pixels
        blob[top : top + height, left : left + width] = random.uniform(0.2, 1, (height, width))
    images = mnist.test.floats(slice(200))[:, 0].double().numpy()
    with visit() as tab:
        own = np.array(tab.evaluate(CENTER, [blobs.reshape(5, -1).tolist(), [60, 45]])).reshape(5, 28, 28)
        again = np.array(tab.evaluate(CENTER, [images.reshape(len(images), -1).tolist(), [28, 28]])).reshape(-1, 28, 28)
    assert np.abs(own - np.stack([reference(blob) for blob in blobs])).max() < 1e-5
    assert np.abs(again - np.stack([reference(image) for image in images])).max() < 1e-5
    # MNIST is centered already
    assert (np.abs(again - images).max((1, 2)) < 0.01).mean() > 0.9
    with torch.no_grad():
        predictions = mnist.model(torch.tensor(again[:, None], dtype=torch.float32)).argmax(1)
    before, after = (
        (one == mnist.test.labels[:200]).double().mean() for one in (mnist.logits[:200].argmax(1), predictions)
    )
    assert after > before - 0.015
