"""The page of a comparison in a real browser, opened from disk without network access."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from browser import chromium, until
from offline_page import faults, opened
from pellucid.hooks._thumbnails import thumbnails
from pellucid.report.comparison import Comparison
from pretended_comparison import comparison_of, pretended

pytestmark = pytest.mark.slow

LABELS = np.arange(90) % 3
CLASSES = ("cat", "dog", "a bird with a very long name")
NAMES = ("alpha", "beta", "gamma")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Two seeds of one setting and another network, with maps, layers and embeddings."""
    draws = np.random.default_rng(0)
    pixels = torch.randint(0, 256, (90, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    models = []
    for seed, (name, model, errors) in enumerate(zip(NAMES, ("cnn", "cnn", "mlp"), (6, 8, 40), strict=True)):
        predictions = LABELS.copy()
        wrong = draws.permutation(90)[:errors]
        predictions[wrong] = (predictions[wrong] + 1) % 3
        given = {"network": network(seed), "pixels": pixels, "seed": seed % 2, "model": model, "classes": CLASSES}
        models.append(pretended(name, LABELS, predictions, **given))
    made = comparison_of(*models, methods=("gradient", "input_x_gradient"), images=30)
    rows = np.arange(90)
    placed = tuple(replace(model, points=(rows, draws.normal(size=(90, 2)))) for model in made.models)
    images = models[0].images
    assert images is not None
    return replace(
        made, models=placed, pictures={**made.pictures, "point_rows": rows, "thumbnails": thumbnails(images, 28)}
    )


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparison.save(tmp_path_factory.mktemp("comparison") / "compare.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--disable-gpu") as started:
        yield started


def errors(comparison: Comparison, number: int) -> int:
    return int((~comparison.correct(number)).sum())


def show(tab: Any, name: str) -> Any:
    tab.evaluate("pellucid.showAll()")
    section = tab.locator(f"#{name}")
    section.scroll_into_view_if_needed()
    return section


def test_the_verdict_is_first_and_links_to_its_sections(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        assert tab.locator("h1").inner_text() == "Comparison: alpha, beta and gamma on Pets"
        texts = [text.removesuffix("↓").strip() for text in tab.locator(".verdict li").all_inner_texts()]
        assert texts == comparison.verdict()
        assert texts[0].startswith("alpha (2 seeds) is more accurate than gamma on these 90 test images")
        box = tab.locator(".verdict").bounding_box()
        assert box["y"] + box["height"] < 700  # on the first screen
        tab.locator(".verdict a[href='#disagreements']").click()
        until(tab, lambda: tab.locator("#disagreements[data-created]").count())


def test_runs_and_curves(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        runs = show(tab, "runs")
        rows = [row.split("\t") for row in runs.locator(".results tbody tr").all_inner_texts()]
        assert rows[0] == ["accuracy", *(f"{comparison.accuracy(number):.2%}" for number in range(3))]
        assert ["model", "cnn", "cnn", "mlp"] in rows
        assert ["seed", "0", "1", "0"] in rows
        differences = [row.split("\t") for row in runs.locator(".differences tbody tr").all_inner_texts()]
        assert [row[0] for row in differences] == ["gamma", "beta"]  # other settings first
        assert differences[1][-1] == "same setting: seed noise"
        gamma = comparison.pairs[0].accuracy
        assert differences[0][3:5] == [str(gamma.first_only), str(gamma.second_only)]

        curves = show(tab, "curves")
        assert curves.locator(".run.seed").count() == 4  # two charts, two seeds
        assert curves.locator(".run.mean").count() == 2
        chart = curves.locator(".plot").nth(1)
        chart.focus()
        tab.keyboard.press("Home")
        tab.keyboard.press("ArrowRight")
        assert [text.strip() for text in curves.locator(".at").all_inner_texts()] == ["at epoch 1", "at epoch 1"]
        expected = comparison.models[2].metrics[1]["test_accuracy"]
        assert f"gamma {100 * expected:.2f}%" in chart.get_attribute("aria-valuetext")


def test_disagreements_show_maps_of_both_and_filters(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        section = show(tab, "disagreements")
        pair = comparison.pairs[0]
        until(tab, lambda: section.locator("li").count() == 12)
        assert (
            section.locator(".shown")
            .inner_text()
            .startswith(f"12 of {pair.accuracy.first_only + pair.accuracy.second_only} images shown.")
        )
        card = section.locator("li").first
        row = int(card.get_attribute("data-image"))
        label, wrong = CLASSES[LABELS[row]], CLASSES[comparison.models[2].predictions[row]]
        assert card.locator("h3").inner_text() == f"{label} or {wrong}? test image {row}"
        assert card.locator("canvas").count() == 5
        assert card.locator(".right").inner_text().startswith("alpha")
        assert card.locator(".wrong").inner_text().startswith("gamma")
        section.get_by_role("button", name="Show all").click()
        until(tab, lambda: section.locator("li").count() == len(pair.disagreements.rows))
        section.get_by_role("button", name="Only alpha correct").click()
        until(tab, lambda: section.locator("li").count() == pair.accuracy.second_only)
        section.get_by_role("button", name="Only alpha correct").click()
        section.get_by_label("True class").select_option("dog")
        dogs = int((LABELS[pair.disagreements.rows] == 1).sum())
        until(tab, lambda: section.locator("li").count() == dogs)


def test_map_pixels_are_the_stored_relevance(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        section = show(tab, "disagreements")
        until(tab, lambda: section.locator("li").count() == 12)
        chosen = comparison.pairs[0].disagreements
        rows = chosen.rows.tolist()
        number = rows.index(int(section.locator("li").first.get_attribute("data-image")))
        canvas = section.locator("li").first.locator(".map canvas").nth(1)  # the other model, true class
        pixels = canvas.evaluate(
            "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        )
        palette = tab.evaluate("pellucid.colours()")
        relevance = chosen.maps[1][number, 0] / 127 * chosen.scales[1][number, 0]
        steps = np.clip(np.rint(relevance / chosen.limits[number] * 127), -127, 127).astype(int)
        shown = np.array(pixels).reshape(-1, 4)[:, :3]
        expected = np.array(palette)[steps.ravel() + 127]
        assert np.abs(shown - expected).max() <= 8  # a step of the palette, where rounding differs
        assert (shown == expected).all(1).mean() > 0.9


def test_a_pair_is_chosen_for_all_sections(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        confusion = show(tab, "confusion")
        summary = confusion.locator(".summary")
        assert summary.inner_text().startswith(
            f"Errors: {errors(comparison, 0)} by alpha, {errors(comparison, 2)} by gamma."
        )
        confusion.get_by_label("Compare alpha with").select_option("beta")
        assert summary.inner_text().startswith(
            f"Errors: {errors(comparison, 0)} by alpha, {errors(comparison, 1)} by beta."
        )
        assert tab.locator("#embedding figcaption").all_inner_texts() == ["alpha", "beta"]
        assert "layers of beta" in tab.locator("#layers caption").inner_text()
        assert tab.locator("#agreement thead").inner_text().split("\t")[1] == "alpha and beta"


def test_cells_are_reached_by_mouse_and_keyboard(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        confusion = show(tab, "confusion")
        cells = confusion.locator("tbody td")

        def sentence(row: int, column: int) -> str:
            counts = [
                int(((row == LABELS) & (comparison.models[number].predictions == column)).sum()) for number in (0, 2)
            ]
            outcome = "correct" if row == column else f"predicted as {CLASSES[column]}"
            noun = "image" if counts[0] == 1 else "images"
            return f"{CLASSES[row]} {outcome}: {counts[0]} {noun} by alpha, {counts[1]} by gamma"

        cells.nth(1).hover()
        assert confusion.locator(".summary").inner_text().startswith(sentence(0, 1))
        cells.nth(0).focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "End"):
            tab.keyboard.press(key)
        assert confusion.locator(".summary").inner_text().startswith(sentence(2, 2))

        layers = show(tab, "layers")
        values = comparison.pairs[0].layers[2]
        assert [
            float(text.replace("−", "-")) for text in layers.locator("tbody td").all_inner_texts()
        ] == pytest.approx(values.ravel(), abs=0.006)
        layers.locator("tbody td").nth(1).hover()
        expected = f"0 (Conv2d) of alpha and 3 (Linear) of gamma: CKA {values[0, 1]:.3f}.".replace("-", "−")
        assert layers.locator(".summary").inner_text() == expected


def test_agreement_shows_the_numbers(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        rows = [row.split("\t") for row in show(tab, "agreement").locator("tbody tr").all_inner_texts()]
        for row, one, noise in zip(rows, comparison.pairs[0].agreement, comparison.between_seeds, strict=False):
            texts = [f"{each.mean:.2f} [{each.low:.2f}, {each.high:.2f}]".replace("-", "−") for each in (one, noise)]
            assert [row[0], row[1], row[3]] == [one.method, *texts]
        assert rows[-1][0] == "For comparison: different methods on alpha"


def test_an_image_is_found_in_both_embeddings(page: Path, comparison: Comparison, browser: Any) -> None:
    with opened(browser, page) as tab:
        section = show(tab, "embedding")
        first, second = (section.locator("canvas[tabindex]").nth(number) for number in (0, 1))
        first.focus()
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowRight")
        assert section.locator(".readout").inner_text().replace("\n", " ").startswith("dog (test image 1). alpha: ")
        tab.keyboard.press("Escape")
        assert section.locator(".readout").inner_text() == ""

        def place(canvas: Any, model: int, row: int) -> dict[str, float]:
            plane = tab.evaluate("JSON.parse(document.getElementById('data-embedding').textContent).planes")[str(model)]
            side = canvas.bounding_box()["width"] - 2
            return {axis: 15 + (side - 28) * plane[axis][row] / 10_000 for axis in "xy"}

        for canvas, model in ((first, 0), (second, 2)):
            canvas.hover(position=place(canvas, model, 7))
            until(tab, lambda: section.locator(".planes").get_attribute("data-image") == "7")
            tab.mouse.move(0, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_accessible_without_a_sideways_scroll(width: int, scheme: str, page: Path, browser: Any) -> None:
    with opened(browser, page, viewport={"width": width, "height": 844}, color_scheme=scheme) as tab:
        tab.evaluate("pellucid.showAll()")
        until(tab, lambda: tab.locator("#disagreements li").count() == 12)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert faults(tab, "body") == []


def test_touch(page: Path, browser: Any) -> None:
    with opened(browser, page, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as tab:
        confusion = show(tab, "confusion")
        confusion.locator("tbody td").nth(4).tap()
        assert confusion.locator(".summary").inner_text().startswith("dog correct: ")
        section = show(tab, "embedding")
        canvas = section.locator("canvas[tabindex]").first
        plane = tab.evaluate("JSON.parse(document.getElementById('data-embedding').textContent).planes")["0"]
        side = canvas.bounding_box()["width"] - 2
        canvas.tap(position={axis: 15 + (side - 28) * plane[axis][11] / 10_000 for axis in "xy"})
        assert section.locator(".planes").get_attribute("data-image") == "11"
