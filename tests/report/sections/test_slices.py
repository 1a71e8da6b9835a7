"""Section of error rates by slice."""

import numpy as np
import pytest

import browser
from offline_page import opened
from pellucid.diagnostics import find_slices
from pellucid.report import Material, write_report
from pellucid.report.sections.slices import MOST_ROWS, slices
from pretended_run import keep

HOSTILE = "</script><script>alert(1)</script><b>bold"


def measured(**changes):
    """Return the arrays and numbers of the hook for two columns of 200 images."""
    site = np.array(["A"] * 100 + [HOSTILE] * 100, object)
    result = find_slices(np.arange(200) >= 150, {"site": site, "age": np.arange(200) // 50})
    record = result.to_dict() | {"shown": [7, 180], "cluster_column": "age", "left_out": {"id": "it has no values"}}
    record["slices"][0] |= {"majority": "cat", "share": 0.75}
    examples = np.full((len(record["slices"]), 8), -1)
    examples[0, :2] = [180, 7]
    thumbnails = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (10, 200)])
    return {"numbers": record | changes, "arrays": {"examples": examples, "thumbnails": thumbnails}}


def test_rows_match_the_record(store):
    made = measured()
    keep(store, "slices", 2, **made)
    section = slices(Material(store))
    assert "hold for all 6 slices at once" in section.lead
    assert "Left out: id, because it has no values." in section.notes
    rows = section.data["rows"]
    for row, expected in zip(rows, made["numbers"]["slices"], strict=True):
        for name in ("column", "value", "images", "errors", "error_rate", "low", "high", "difference", "verdict"):
            assert row[name] == expected[name]
        assert row["p"] == expected["adjusted_p"]
    assert (rows[0]["examples"], rows[0]["detail"], rows[1]["examples"]) == ([180, 7], "75% are cat", [])
    assert section.data["most"] == max(row["high"] for row in rows)
    assert section.data["thumbnails"]["indices"] == [7, 180]


def test_no_section_without_slices(store):
    assert slices(Material(store)) is None
    keep(store, "slices", 2, name="left_out", numbers={"reason": "there are none"})
    assert slices(Material(store)) is None


def test_long_tables_are_cut(store):
    made = measured()
    made["numbers"]["slices"] = made["numbers"]["slices"][-1:] * 300
    made["numbers"]["looks"] = 300
    keep(store, "slices", 2, **made)
    section = slices(Material(store))
    assert len(section.data["rows"]) == MOST_ROWS
    assert f"The table has the {MOST_ROWS} worst of 300 slices." in section.notes


@pytest.mark.parametrize(
    "change",
    [
        {"slices": [{"column": "a"}]},
        {"slices": [measured()["numbers"]["slices"][0] | {"low": None}]},
        {"slices": [measured()["numbers"]["slices"][0] | {"high": 2}]},
        {"shown": [7]},
        {"left_out": 3},
        {"slices": "none"},
    ],
    ids=str,
)
def test_damaged_records_are_noted(change, store):
    keep(store, "slices", 2, **measured(**change))
    material = Material(store)
    assert slices(material) is None
    assert len(material.damages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_can_be_sorted(store, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it comes with the extra `test`").Axe()
    keep(store, "slices", 2, **measured())
    path = write_report(store.folder)
    viewport = {"width": width, "height": 900}
    with browser.chromium("--disable-gpu") as program, opened(program, path, viewport=viewport) as page:
        table = page.locator("#slices table")
        names = table.locator("tbody th")
        original = names.all_text_contents()
        assert any(HOSTILE in name for name in original)
        assert page.locator("#slices b", has_text="bold").count() == 0
        table.get_by_role("button", name="images").press("Enter")
        counts = table.locator("tbody tr td:nth-child(2)").all_text_contents()
        assert counts == sorted(counts, key=int, reverse=True)
        assert page.locator("#slices .summary").text_content() == "Sorted by images."
        table.get_by_role("button", name="images").click()
        assert names.all_text_contents() == original
        page.wait_for_function("document.querySelectorAll('#slices canvas[data-painted]').length === 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        serious = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert serious == []
