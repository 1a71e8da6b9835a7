"""Embedding section: neighbors, search, colors and links in the browser, compared with the arrays of the run."""

import io
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image

import browser
from offline_page import faults, opened
from pellucid.core.contracts import Artifact
from pellucid.plots.colours import class_colours
from pellucid.report import write_report
from pellucid.storage.store import Store

pytestmark = pytest.mark.slow

SCORES = {"trustworthiness": 0.9, "knn_accuracy": 0.8, "knn_accuracy_embedding": 0.85}
NAMES = ["4", "9", "a long name", "long", 'say "x"', "<b>", "true", *(f"kind {number}" for number in range(23))]
COUNT, SIDE, PAD = 60, 6, 20


def run(seed: int = 0, count: int = COUNT, classes: int = len(NAMES)) -> dict[str, Any]:
    """Return the columns of an epoch: points on a grid, two of each class, so that nothing hides a dot."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    predictions = np.where(draw.random(count) < 0.3, draw.integers(0, classes, count), labels)
    confidences = draw.uniform(0.3, 1, count)
    grid = np.stack(np.divmod(np.arange(count), 8), 1)[:, ::-1] * 10.0
    return {
        "points": grid + draw.uniform(-1, 1, grid.shape),
        "indices": np.arange(count) * 7 + 3,
        "labels": labels,
        "predictions": predictions,
        "confidences": confidences,
        "losses": np.where(labels == predictions, -np.log(confidences), draw.uniform(0.5, 6, count)),
        "neighbors": np.stack([draw.permutation(np.delete(np.arange(count), k))[:8] for k in range(count)]).astype(
            np.int32
        ),
        "thumbnails": draw.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8),
    }


def keep(folder: Path, epoch: int, columns: dict[str, Any], names: list[str] = NAMES, *, has_maps: bool = True) -> None:
    store = Store(folder)
    store.begin({"status": "finished", "dataset": {"title": "T", "classes": names, "test_images": 500}})
    store.add_metrics({"epoch": epoch})
    arrays = {name: columns[name] for name in ("points", "neighbors", "thumbnails") if columns.get(name) is not None}
    rest = {name: values for name, values in columns.items() if name not in ("points", "neighbors", "thumbnails")}
    numbers = {name: None if values is None else np.asarray(values).tolist() for name, values in rest.items()}
    made = Artifact(caption="points", arrays=arrays, numbers={**numbers, **SCORES, "lossless_size": [SIDE, SIDE]})
    store.keep(store.pack("tsne", epoch, made, None))
    if has_maps:
        store.keep(store.pack("gallery", epoch, _maps(), None))


def _maps() -> Artifact:
    """Return maps of one image, for the section that the links open."""
    arrays = {
        "source": np.zeros((1, 1, SIDE, SIDE), np.uint8),
        "maps": np.ones((1, 1, 2, SIDE, SIDE), np.int8),
        "scales": np.ones((1, 1, 2), np.float32),
    }
    numbers = {
        "indices": [3],
        "labels": [0],
        "predictions": [0],
        "methods": ["gradient"],
        "classes": [0, 1],
        "refused": {},
    }
    return Artifact(caption="maps", arrays=arrays, numbers=numbers)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium("--disable-gpu") as one:
        yield one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    keep(path, 0, run(1))
    keep(path, 2, run())
    write_report(path)
    return path


@pytest.fixture
def tab(folder: Path, chromium: Any) -> Iterator[Any]:
    with opened(chromium, folder / "report.html") as page:
        settle(page, 2)
        yield page


def settle(tab: Any, epoch: int) -> None:
    tab.wait_for_selector(f'#embedding canvas[data-epoch="{epoch}"][data-moving="false"]')


def select_epoch(tab: Any, epoch: int) -> None:
    tab.evaluate("epoch => pellucid.choose(epoch)", epoch)
    settle(tab, epoch)


def search(tab: Any, text: str) -> list[int]:
    """Type a search and return the indices of the listed images."""
    tab.locator("#embedding-search").fill(text)
    more = tab.locator("#embedding .results .more")
    if more.is_visible():
        more.click()
    return [int(text) for text in tab.locator("#embedding .results small").all_text_contents()]


def pixels(tab: Any) -> np.ndarray:
    uri = tab.locator("#embedding .stage > canvas").evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.partition(",")[2]))).convert("RGBA")).astype(int)


def centers(tab: Any, *epochs: dict[str, Any]) -> np.ndarray:
    """Return the positions (point, 2) of the last epoch's dots in CSS pixels of the canvas."""
    points = np.concatenate([one["points"] for one in epochs])
    low, high = points.min(0), points.max(0)
    side = tab.locator("#embedding .stage > canvas").bounding_box()["width"]
    return side / 2 + (epochs[-1]["points"] - (low + high) / 2) / (high - low).max() * (1, -1) * (side - 2 * PAD)


def click_dot(tab: Any, place: np.ndarray, *, tap: bool = False) -> None:
    box = tab.locator("#embedding .stage > canvas").bounding_box()
    if box["y"] + place[1] > 700 or box["y"] + place[1] < 60:
        tab.evaluate("y => scrollBy({top: y, behavior: 'instant'})", box["y"] + place[1] - 300)
        box = tab.locator("#embedding .stage > canvas").bounding_box()
    (tab.touchscreen.tap if tap else tab.mouse.click)(box["x"] + place[0], box["y"] + place[1])


QUERIES: dict[str, Callable[..., Any]] = {
    "4": lambda label, prediction, **_: (label == 0) | (prediction == 0),
    "true 4 predicted 9": lambda label, prediction, **_: (label == 0) & (prediction == 1),
    "true 4 true 9": lambda label, **_: label <= 1,
    "TRUE: 4, 9": lambda label, prediction, **_: (label == 0) & (prediction == 1),
    "4 → 4": lambda label, prediction, **_: (label == 0) & (prediction == 0),
    "4 -> a long name": lambda label, prediction, **_: (label == 0) & (prediction == 2),
    "4 9": lambda label, prediction, **_: ((label == 0) | (prediction == 0)) & ((label == 1) | (prediction == 1)),
    "a long name": lambda label, prediction, **_: (label == 2) | (prediction == 2),
    '"long"': lambda label, prediction, **_: (label == 3) | (prediction == 3),
    "long": lambda label, prediction, **_: (label == 3) | (prediction == 3),
    "<b>": lambda label, prediction, **_: (label == 5) | (prediction == 5),
    "true": lambda label, prediction, **_: (label == 6) | (prediction == 6),
    "ind 2": lambda label, prediction, **_: np.isin(label, [9, 27, 28, 29]) | np.isin(prediction, [9, 27, 28, 29]),
    "a long na wrong": lambda label, prediction, **_: ((label == 2) | (prediction == 2)) & (label != prediction),
    "kind 12": lambda label, prediction, **_: (label == 19) | (prediction == 19),
    "Kind": lambda label, prediction, **_: (label >= 7) | (prediction >= 7),
    "true kind wrong": lambda label, prediction, **_: (label >= 7) & (label != prediction),
    "wrong": lambda label, prediction, **_: label != prediction,
    "correct, confidence < 50%": lambda label, prediction, confidence, **_: (label == prediction) & (confidence < 0.5),
    "confidence>=.75": lambda confidence, **_: confidence >= 0.75,
    "loss > 2 loss <= 4": lambda loss, **_: (loss > 2) & (loss <= 4),
    "index 10": lambda index, **_: index == 10,
    "#10 #17 index 24": lambda index, **_: np.isin(index, [10, 17, 24]),
    "index 10-30": lambda index, **_: (index >= 10) & (index <= 30),
    "17": lambda index, **_: index == 17,
    "predicted 9 index 3": lambda prediction, index, **_: (prediction == 1) & (index == 3),
}


def test_searches_find_what_numpy_finds(tab: Any) -> None:
    columns = run()
    values = {"label": columns["labels"], "prediction": columns["predictions"], "index": columns["indices"]}
    values |= {"confidence": columns["confidences"].astype(np.float32), "loss": columns["losses"].astype(np.float32)}
    for text, test in QUERIES.items():
        expected = columns["indices"][test(**values)].tolist()
        assert search(tab, text) == expected, text
        status = tab.locator("#embedding .found").inner_text()
        assert status.startswith(f"{len(expected)} of 60 images: "), text


def test_search_follows_the_epoch_and_dims_other_dots(tab: Any) -> None:
    wrong = search(tab, "wrong")
    alpha = pixels(tab)[..., 3]
    for index, (x, y) in zip(run()["indices"], centers(tab, run(1), run()), strict=True):
        assert (alpha[round(y), round(x)] > 100) == (int(index) in wrong)
    select_epoch(tab, 0)
    first = run(1)
    found = [int(text) for text in tab.locator("#embedding .results small").all_text_contents()]
    assert found == first["indices"][first["labels"] != first["predictions"]].tolist() != wrong
    tab.get_by_role("button", name="Show all", exact=True).click()
    assert tab.locator("#embedding-search").input_value() == ""
    assert not tab.locator("#embedding .results").is_visible()


def test_unreadable_and_absent_searches_are_explained(tab: Any) -> None:
    assert search(tab, "nobody") == []
    found = tab.locator("#embedding .found")
    assert found.inner_text() == (
        "No class, index or other search term begins with “nobody”. See “Syntax” for examples."
    )
    search(tab, "index 11")
    assert found.inner_text() == "Test image 11 is not among the 60 images shown here. Explain it"
    assert found.locator("a").get_attribute("href") == "#explain&image=11"
    search(tab, "index 500")
    assert found.inner_text() == "There is no test image 500: the last one is 499."


def test_examples_are_searches_with_results(tab: Any) -> None:
    for button in tab.locator("#embedding .examples button").all():
        button.click()
        assert tab.locator("#embedding-search").input_value() == button.inner_text()
        assert tab.locator("#embedding .results li").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_are_those_of_the_values(folder: Path, chromium: Any, scheme: str) -> None:
    columns, every = run(), np.concatenate([run()["losses"], run(1)["losses"]])
    low, high = 10 ** np.floor(np.log10(np.quantile(every, 0.05))), np.ceil(every.max() * 10) / 10
    shares = {
        "loss": np.log(np.maximum(columns["losses"], low) / low) / np.log(high / low),
        "confidence": (1 - columns["confidences"]) / (1 - 0.3),
    }
    faint, strong = (0.9, 0.0) if scheme == "light" else (0.2, 1.0)
    with opened(chromium, folder / "report.html", color_scheme=scheme) as tab:
        settle(tab, 2)
        places = centers(tab, run(1), columns)
        for mode, share in shares.items():
            tab.locator(f"#embedding [data-mode={mode}]").click()
            expected = colormaps["viridis"](np.rint((faint + (strong - faint) * share) * 255).astype(int))[:, :3] * 255
            shown = pixels(tab)
            for (x, y), colour in zip(places, expected, strict=True):
                np.testing.assert_allclose(shown[round(y), round(x)], [*colour, 0.85 * 255], atol=4, err_msg=mode)
            text = tab.locator("#embedding .scale p").inner_text()
            assert (
                f"from {low:g} to {high:g} nats on a logarithmic scale" if mode == "loss" else "from 100% to 30%"
            ) in text
        assert faults(tab, "#embedding") == []
        tab.locator("#embedding [data-mode=correctness]").click()
        wrong, shown = columns["labels"] != columns["predictions"], pixels(tab)
        middle = np.array([shown[round(y), round(x), :3] for x, y in places])
        assert len(np.unique(middle[wrong], axis=0)) == len(np.unique(middle[~wrong], axis=0)) == 1
        assert np.abs(middle[wrong][0] - middle[~wrong][0]).max() > 100
        # a diamond is taller than a disc
        reach = min(9, 0.15 * tab.locator("#embedding .stage").evaluate("stage => stage.clientWidth") / np.sqrt(COUNT))
        assert [shown[round(y - 1.25 * reach), round(x), 3] > 100 for x, y in places] == wrong.tolist()
        legend = tab.locator("#embedding .scale .key").all_inner_texts()
        assert legend == [f"correct ({(~wrong).sum()})", f"misclassified ({wrong.sum()})"]
        tab.locator("#embedding [data-mode=class]").click()
        x, y = places[0]
        np.testing.assert_allclose(pixels(tab)[round(y), round(x), :3], np.rint(class_colours(30)[0] * 255), atol=4)


def test_neighbors_of_a_pinned_dot_are_those_of_the_run(tab: Any) -> None:
    columns = run()
    places = centers(tab, run(1), columns)
    for point in (20, 37):
        click_dot(tab, places[point])
        neighbors = tab.locator("#embedding .neighbors")
        shown = [int(text) for text in neighbors.locator("small").all_text_contents()]
        assert shown == columns["indices"][columns["neighbors"][point]].tolist()
        assert neighbors.locator("h3").inner_text() == "Nearest neighbors in the embedding"
        assert tab.evaluate("location.hash") == f"#embedding&image={columns['indices'][point]}"
        for canvas, row in zip(neighbors.locator("canvas").all(), columns["neighbors"][point], strict=True):
            canvas.locator("xpath=self::*[@data-painted]").wait_for(state="attached")
            read = (
                "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
            )
            assert canvas.evaluate(read) == columns["thumbnails"][row].ravel().tolist()
    labels = columns["labels"][columns["neighbors"][37]].tolist()
    order = sorted(dict.fromkeys(labels), key=lambda label: -labels.count(label))
    parts = [f"{NAMES[k]} ({labels.count(k)} image{'' if labels.count(k) == 1 else 's'})" for k in order[:4]]
    rest = f" and {len(order) - 4} other{'' if len(order) == 5 else 's'}" if len(order) > 4 else ""
    assert neighbors.locator("p").inner_text().endswith(f"8 nearest neighbors: {', '.join(parts)}{rest}.")
    select_epoch(tab, 0)
    shown = [int(text) for text in neighbors.locator("small").all_text_contents()]
    assert shown == run(1)["indices"][run(1)["neighbors"][37]].tolist()


def test_runs_without_neighbors_show_those_in_the_plane(tmp_path: Path, chromium: Any) -> None:
    columns = {**run(), "neighbors": None, "losses": None}
    keep(tmp_path, 0, columns, has_maps=False)
    with opened(chromium, write_report(tmp_path)) as tab:
        settle(tab, 0)
        tab.evaluate("pellucid.go({section: 'embedding', image: 73})")
        neighbors = tab.locator("#embedding .neighbors")
        browser.until(tab, lambda: neighbors.locator("small").count() == 8)
        distances = np.linalg.norm(columns["points"] - columns["points"][10], axis=1)
        expected = columns["indices"][np.argsort(distances)[1:9]].tolist()
        assert [int(text) for text in neighbors.locator("small").all_text_contents()] == expected
        assert neighbors.locator("h3").inner_text() == "Nearest neighbors in this plane"
        assert "did not store the neighbors" in neighbors.locator("p").inner_text()
        assert tab.locator("#embedding a.opener").count() == 0  # the page has no section to open them in


def test_links_open_the_image_in_explain(tab: Any) -> None:
    columns = run()
    click_dot(tab, centers(tab, run(1), columns)[20])
    index = columns["indices"][20]
    for link in tab.locator("#embedding .card a").all():  # the thumbnail and the word
        assert link.get_attribute("href") == f"#explain&image={index}"
    assert tab.locator("#embedding .card a").all_inner_texts() == ["", "Explain"]
    first = tab.locator("#embedding .neighbors a").first
    assert first.get_attribute("href") == f"#explain&image={columns['indices'][columns['neighbors'][20][0]]}"
    search(tab, "wrong")
    wrong = columns["indices"][columns["labels"] != columns["predictions"]].tolist()
    for links in (tab.locator("#embedding .results a"), tab.locator("#embedding .rows a")):
        assert [link.get_attribute("href") for link in links.all()] == [f"#explain&image={one}" for one in wrong]
    links.first.click()
    browser.until(tab, lambda: tab.evaluate("pellucid.place.section") == "explain")
    assert tab.evaluate("pellucid.place.image") == wrong[0]


def test_address_restores_the_pinned_image_and_the_class(folder: Path, chromium: Any) -> None:
    index = int(run()["indices"][20])
    report = folder / "report.html"
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(f"{report.as_uri()}#embedding&epoch=0&image={index}&class={run()['labels'][20]}")
    tab.wait_for_selector("#embedding .card.pinned")
    for _ in range(2):
        settle(tab, 0)
        assert tab.locator("#embedding .card .pale").inner_text() == f"test image {index}"
        assert tab.locator("#embedding .legend [aria-pressed=true]").inner_text() == NAMES[run()["labels"][20]]
        assert tab.locator("#embedding .stage").evaluate("e => e.getBoundingClientRect().top < innerHeight")
        tab.reload()
        tab.wait_for_selector("#embedding .card.pinned")
    tab.locator("#embedding .stage > canvas").press("Escape")
    assert tab.evaluate("location.hash") == f"#embedding&epoch=0&class={run()['labels'][20]}"
    context.close()


def test_pixels_are_offered_to_other_sections(tab: Any) -> None:
    columns = run()
    found = tab.evaluate("pellucid.findImage(24).then(one => ({...one, bytes: [...one.bytes]}))")
    assert found["bytes"] == columns["thumbnails"][3].ravel().tolist()
    assert (found["size"], found["channels"], found["isExact"]) == ([SIDE, SIDE], 1, True)
    assert (found["label"], found["prediction"]) == (columns["labels"][3], columns["predictions"][3])
    assert found["confidence"] == pytest.approx(columns["confidences"][3], abs=1e-6)
    assert tab.evaluate("pellucid.findImage(25)") is None


def test_keyboard_reaches_search_neighbors_and_links(tab: Any) -> None:
    tab.locator("#embedding-search").focus()
    tab.keyboard.type("index 143")
    assert tab.locator("#embedding .results a").count() == 1
    canvas = tab.locator("#embedding .stage > canvas")
    canvas.focus()
    tab.keyboard.press("PageDown")
    tab.keyboard.press("Enter")
    assert tab.locator("#embedding .neighbors li").count() == 8
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.hash") == "#explain&image=143"
    tab.keyboard.press("Enter")
    browser.until(tab, lambda: tab.evaluate("pellucid.place.section") == "explain")
    assert tab.evaluate("pellucid.place.image") == 143


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(folder: Path, chromium: Any, scheme: str) -> None:
    phone = {"width": 390, "height": 844}
    with opened(chromium, folder / "report.html", viewport=phone, has_touch=True, color_scheme=scheme) as tab:
        settle(tab, 2)
        tab.locator("#embedding summary", has_text="Syntax").tap()
        tab.locator("#embedding [data-mode=loss]").tap()
        click_dot(tab, centers(tab, run(1), run())[20], tap=True)
        assert tab.locator("#embedding .neighbors li").count() == 8
        tab.locator("#embedding .examples button").last.tap()
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert faults(tab, "#embedding") == []


def variants(seed: int) -> dict[str, Any]:
    """Return a random epoch, with some of the parts that a run may lack."""
    draw = np.random.default_rng(seed)
    count, classes = int(draw.integers(1, 40)), int(draw.integers(1, 6))
    columns = run(seed, count, classes)
    kind = seed % 6
    if kind == 0:  # all wrong
        columns["predictions"] = (columns["labels"] + 1) % (classes + 1)
    if kind == 1:  # a diverged network
        columns |= {
            "confidences": np.full(count, np.nan),
            "losses": np.full(count, np.nan),
            "predictions": 0 * columns["labels"],
        }
    if kind == 2:
        columns["thumbnails"] = None
    if kind == 3:
        columns |= {"losses": None, "neighbors": None}
    if kind == 4:  # equal points
        columns["points"] = np.ones((count, 2))
    if columns["neighbors"] is not None and count <= 8:
        columns["neighbors"] = columns["neighbors"][:, : count - 1].copy()
    return columns


@pytest.mark.parametrize("seed", range(6))
def test_random_runs_show_all_their_images(tmp_path: Path, chromium: Any, seed: int) -> None:
    columns = variants(seed)
    names = [f"class {number}" for number in range(int(max(columns["labels"].max(), columns["predictions"].max())) + 1)]
    keep(tmp_path, 0, columns, names if seed % 2 else [], has_maps=bool(seed % 2))
    wrong = columns["labels"] != columns["predictions"]
    with opened(chromium, write_report(tmp_path)) as tab:
        settle(tab, 0)
        assert search(tab, "index 0-9999") == columns["indices"].tolist()
        assert search(tab, "wrong") == columns["indices"][wrong].tolist()
        expected = columns["indices"][(columns["labels"] == 0) | (columns["predictions"] == 0)].tolist()
        assert search(tab, "class 0") == expected
        search(tab, "")
        for mode in tab.locator("#embedding .modes button:enabled").all():
            mode.click()
        has_values = columns["confidences"] is not None and np.isfinite(columns["confidences"]).any()
        assert tab.locator("#embedding [data-mode=confidence]").is_enabled() == has_values
        tab.evaluate("image => pellucid.go({section: 'embedding', image})", int(columns["indices"][0]))
        browser.until(tab, lambda: tab.locator("#embedding .card.pinned").count())
        shown = tab.locator("#embedding .neighbors li").count()
        assert shown == min(8, len(wrong) - 1)


def test_only_shown_epochs_are_unpacked(folder: Path, chromium: Any) -> None:
    report = folder / "report.html"
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(
        "globalThis.unpacked = []; const real = atob;"
        " globalThis.atob = (text) => { unpacked.push(text); return real(text); };"
    )
    tab.goto(f"{report.as_uri()}#embedding")
    settle(tab, 2)
    data = json.loads(tab.locator("#data-embedding").text_content())
    assert data["epochs"]["2"]["packed"] in tab.evaluate("unpacked")
    assert data["epochs"]["0"]["packed"] not in tab.evaluate("unpacked")
    select_epoch(tab, 0)
    select_epoch(tab, 2)
    select_epoch(tab, 0)
    assert tab.evaluate("unpacked").count(data["epochs"]["0"]["packed"]) == 1
    context.close()


def test_class_colors_are_readable_from_the_legend(tab: Any) -> None:
    for number, button in enumerate(tab.locator("#embedding .legend button").all()[:3]):
        colour = button.locator(".swatch").evaluate("swatch => getComputedStyle(swatch).backgroundColor")
        assert [int(part) for part in colour[4:-1].split(",")] == np.rint(
            np.array(to_rgb(class_colours(30)[number])) * 255
        ).tolist()
