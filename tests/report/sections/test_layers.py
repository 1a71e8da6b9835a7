"""Section of layer statistics."""

import copy

import numpy as np
import pytest

import browser
from offline_page import opened
from pellucid.report import Material, write_report
from pellucid.report._verdict import conclusions
from pellucid.report.sections.layers import layers
from pretended_run import keep

HOSTILE = "</script><script>alert(1)</script><b>bold"
ROW = {
    "name": "0",
    "title": "0 (Conv2d)",
    "kind": "Conv2d",
    "is_activation": False,
    "units": 16,
    "dead": 0,
    "saturated": None,
    "mean": -0.25,
    "std": 1.5,
    "zeros": 0.0,
    "nonfinite": 0,
    "effective_rank": 9.36043,
    "rank_bound": 16,
    "gradient_norm": 0.880886,
    "gradient_ratio": 0.147,
}


def measured(epoch=2, **changes):
    """Return the numbers of the hook for a convolution, its activation and a linear layer."""
    relu = {"name": "1", "title": HOSTILE, "is_activation": True, "dead": 12, "saturated": 3, "gradient_ratio": None}
    last = {"name": "2", "title": "2 (Linear)", "mean": None, "std": None, "effective_rank": None, "nonfinite": 9}
    return {
        "images": 200,
        "active_bound": 0.0149,
        "layers": [ROW, {**ROW, **relu}, {**ROW, **last}],
        "findings": [
            {"kind": "dead", "text": f"12 of 16 units of {HOSTILE} are dead.", "is_severe": True},
            {"kind": "saturated", "text": "3 of 16 units of 1 (ReLU) are saturated.", "is_severe": False},
        ],
        "cka": [[1.0, 0.4567], [0.4567, None]],
        "cka_layers": ["0", "2"],
        "cka_titles": ["0 (Conv2d)", "2 (Linear)"],
        "cka_images": 128,
        "cka_previous": [0.9, None] if epoch else None,
        "cka_first": [0.8, None] if epoch else None,
    } | changes


def attention():
    draw = np.random.default_rng(0)
    return {
        "arrays": {
            "shares": np.array([[0.5, -0.25], [0.1, np.nan]], np.float32),
            "rollout": draw.random((2, 4, 4), dtype=np.float32),
            "images": draw.random((2, 1, 4, 4), dtype=np.float32),
        },
        "numbers": {"layers": ["block.0", HOSTILE], "indices": [0, 7], "refused": {"a": "it has no heads."}},
    }


def test_rows_and_similarity_match_the_record(store):
    for epoch in (0, 1, 2):
        keep(store, "layers", epoch, numbers=measured(epoch))
    section = layers(Material(store))
    assert "Statistics of 200 test images" in section.lead
    assert "fewer than 1.5% of images" in section.lead
    assert list(section.data["epochs"]) == [0, 1, 2]
    latest = section.data["epochs"][2]
    assert [row["effective_rank"] for row in latest["rows"]] == [9.36, 9.36, None]
    assert [(row["before"], row["first"]) for row in latest["rows"]] == [(0.9, 0.8), (None, None), (None, None)]
    assert [row["before"] for row in section.data["epochs"][0]["rows"]] == [None] * 3
    assert latest["cka"] == [[1.0, 0.457], [0.457, None]]
    assert [one["severe"] for one in latest["findings"]] == [True, False]


def test_attention_is_packed(store):
    keep(store, "layers", 2, numbers=measured())
    keep(store, "layers", 2, name="attention", **attention())
    found = layers(Material(store)).data["attention"][2]
    assert found["shares"] == [[0.5, -0.25], [0.1, None]]
    assert (found["size"], found["indices"]) == ([4, 4], [0, 7])


def test_no_section_without_statistics(store):
    assert layers(Material(store)) is None
    keep(store, "layers", 2, name="left_out", numbers={"reason": "it is a TorchScript model"})
    assert layers(Material(store)) is None


def test_only_severe_findings_are_conclusions(store):
    before = [one.text for one in conclusions(Material(store))]
    # epoch 1 is marked as the best
    keep(store, "layers", 1, numbers=measured())
    after = conclusions(Material(store))
    new = [one for one in after if one.text not in before]
    assert [(one.text, one.section) for one in new] == [(f"12 of 16 units of {HOSTILE} are dead.", "layers")]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": []},
        {"layers": [{"title": "a"}]},
        {"layers": [{**ROW, "dead": 17}]},
        {"cka": [[1.0]]},
        {"cka_previous": [0.5]},
        {"findings": 3},
        {"images": None},
    ],
    ids=str,
)
def test_damaged_records_are_noted(change, store):
    keep(store, "layers", 2, numbers=measured(**change))
    material = Material(store)
    assert layers(material) is None
    assert len(material.damages) == 1


def test_damaged_attention_leaves_the_rest(store):
    made = copy.deepcopy(attention())
    made["numbers"]["layers"] = ["block.0"]
    keep(store, "layers", 2, numbers=measured())
    keep(store, "layers", 2, name="attention", **made)
    material = Material(store)
    assert layers(material).data["attention"] == {}
    assert len(material.damages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_section_in_a_browser(store, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it comes with the extra `test`").Axe()
    for epoch in (0, 1, 2):
        keep(store, "layers", epoch, numbers=measured(epoch))
        keep(store, "layers", epoch, name="attention", **attention())
    path = write_report(store.folder)
    viewport = {"width": width, "height": 900}
    with browser.chromium("--disable-gpu") as program, opened(program, path, viewport=viewport) as page:
        names = page.locator("#layers .layer-rows tbody th").all_text_contents()
        assert names == ["0 (Conv2d)", HOSTILE, "2 (Linear)9 outputs NaN or infinite"]
        assert page.locator("#layers b", has_text="bold").count() == 0
        text = page.locator("#layers .layer-rows tbody").inner_text()
        for part in ("12 of 16", "3 of 16", "9.4 of 16", "0.90", "0.80", "−0.25 ± 1.5", "not finite"):
            assert part in text
        # a chart per value, with a point at the selected epoch
        assert page.locator("#layers .layer-rows svg circle").count() >= 8
        page.locator("#layers .similar td").nth(2).click()
        expected = "0 (Conv2d) and 2 (Linear): CKA 0.457."
        assert page.locator("#layers .summary").text_content() == expected
        page.keyboard.press("ArrowDown")
        assert page.locator("#layers .summary").text_content() == "2 (Linear) and 2 (Linear): CKA undefined."
        browser.until(page, lambda: page.locator("#layers .heads canvas").count() == 4)
        assert "50%" in page.locator("#layers .heads table").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#epoch").focus()
        page.keyboard.press("Home")
        assert "0.90" not in page.locator("#layers .layer-rows tbody").inner_text()
        serious = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert serious == []
