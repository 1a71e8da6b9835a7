"""Leaderboard section: the verdicts match `Evaluation`, and the page shows and explains them."""

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from browser import chromium
from offline_page import faults, opened
from pellucid.evaluation import CONTROLS, METRICS, Evaluation
from pellucid.evaluation._evaluation import Scores
from pellucid.report import Material, write_report
from pellucid.report._recommended import recommended_method
from pellucid.report.sections.leaderboard import leaderboard
from pellucid.storage.store import Store
from pretended_run import keep, run_record


def rows_of(section):
    return {row["method"]: row for row in section.data["rows"]}


def test_cells_have_verdicts(store):
    section = leaderboard(Material(store))
    assert [column["name"] for column in section.data["columns"]] == ["selectivity", "continuity"]
    rows = rows_of(section)
    verdicts = {
        method: [cell and (cell["verdict"], cell["said"]) for cell in row["cells"]] for method, row in rows.items()
    }
    assert verdicts == {
        "gradient": [("tied", "≈ best"), ("", "")],
        "deconvnet": [("beaten", "worse than random"), ("best", "best")],
        "deeplift": [("best", "best"), None],
        "random": [("", ""), ("", "")],
        "constant": [("", ""), ("trivial", "wins by construction")],
    }
    assert [row["is_control"] for row in rows.values()] == [False, False, False, True, True]
    assert rows["gradient"]["cells"][0]["text"] == "1.000"
    assert rows["gradient"]["cells"][0]["interval"] == "0.900 … 1.100"
    assert rows["gradient"]["curve"] == {"share": [0, 0.5, 1], "most": [9, 1, 0], "least": [9, 8, 0]}
    assert section.notes == (
        "Computed at the end of training with the best checkpoint (epoch 1).",
        "Not applicable: lrp.epsilon: no rule for it",
    )


@pytest.fixture(scope="module")
def evaluation():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    images = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    metrics = ["completeness", "sparseness"]
    return pellucid.evaluate(network, images, None, ["gradient", "input_x_gradient", "lrp.epsilon"], metrics)


def test_evaluation_survives_a_round_trip(evaluation):
    again = Evaluation.from_dict(evaluation.to_dict())
    assert again.rows == evaluation.rows
    assert again.comparisons == evaluation.comparisons
    for metric in evaluation.metrics:
        assert again.best(metric) == evaluation.best(metric)
        assert again.ties(metric) == evaluation.ties(metric)
        for method in evaluation.methods:
            assert again.beaten_by(method, metric) == evaluation.beaten_by(method, metric)
    assert set(CONTROLS) <= set(again.methods)


@pytest.mark.parametrize("name", ["metrics", "methods", "rows", "comparisons", "refused"])
def test_incomplete_record_raises(name, evaluation):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Evaluation.from_dict({key: value for key, value in evaluation.to_dict().items() if key != name})


# --- conclusions ------------------------------------------------------------------------------------------------

MEANS = {
    "selectivity": {"gradient": 1.0, "input_x_gradient": -0.5, "lrp.epsilon": -0.5, "deeplift(steps=3)": -2.0,
                    "deconvnet": 2.9, "guided_backprop": 0.5, "random": 3.0, "constant": 4.0},
    "continuity": {"gradient": 0.3, "input_x_gradient": 0.4, "lrp.epsilon": 0.4, "deeplift(steps=3)": 0.2,
                   "deconvnet": 0.0, "guided_backprop": 0.5, "random": 1.0, "constant": 0.0},
    "random_logit": {"gradient": 0.1, "input_x_gradient": 0.2, "lrp.epsilon": 0.2, "deeplift(steps=3)": 0.15,
                     "deconvnet": 0.3, "guided_backprop": 0.9, "random": 1.0, "constant": 1.0},
}  # fmt: skip
SHARE = [0.0, 0.25, 0.5, 0.75, 1.0]


def concluded():
    """An evaluation with a recommended method, two equal ones, a constant map and a class-insensitive method."""
    noise = 0.05 * np.random.default_rng(0).standard_normal(30)
    noise -= noise.mean()
    scores = {}
    for metric, means in MEANS.items():
        for number, (method, mean) in enumerate(means.items()):
            steady = method == "lrp.epsilon" or mean in (0.0, 1.0)  # as its equal, or without noise
            own = np.roll(noise, 1 if method == "lrp.epsilon" else 0 if steady else number)
            values = mean + (0 if mean in (0.0, 1.0) else 1) * own
            curves = {"share": SHARE, "most": [9, mean, mean - 1, mean, 0], "least": [9, 8, 7 - mean, 3, 0]}
            scores[method, metric] = Scores(values.tolist(), {}, curves if metric == "selectivity" else {})
    about = {metric: METRICS[metric]().about() for metric in MEANS}
    return Evaluation(tuple(MEANS["selectivity"]), about, scores, 30, 0, same_map=("deconvnet",))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with this leaderboard, and its report."""
    store = Store(tmp_path_factory.mktemp("evaluated"))
    store.begin(run_record())
    keep(store, "leaderboard", 2, numbers=concluded().to_dict())
    write_report(store.folder)
    return store


def test_conclusions_reach_the_section(evaluated):
    data = leaderboard(Material(evaluated)).data
    assert data["recommended"] == "deeplift(steps=3)"
    assert data["reason"].startswith("Recommended: deeplift, the most faithful method (selectivity −2)")
    assert recommended_method(Material(evaluated)) == "deeplift"
    (group,) = data["groups"]
    assert (group["shown"], group["methods"]) == ("input_x_gradient", ["input_x_gradient", "lrp.epsilon"])
    assert "piecewise-linear" in group["reason"]
    rows = {row["method"]: row for row in data["rows"]}
    assert rows["guided_backprop"]["note"] == "nearly class-insensitive"
    assert rows["deconvnet"]["note"] == "same map for every image"
    continuity = rows["deconvnet"]["cells"][1]
    assert (continuity["verdict"], continuity["said"]) == ("trivial", "same map for every image")
    assert rows["deeplift(steps=3)"]["cells"][1]["verdict"] == "best"


def test_bars_run_from_the_worst_to_the_best_of_their_column(evaluated):
    data = leaderboard(Material(evaluated)).data
    for column, (metric, means) in enumerate(MEANS.items()):
        low, high = min(means.values()), max(means.values())
        for row in data["rows"]:
            share = (high - means[row["method"]]) / (high - low)  # lower is better in all of these
            assert row["cells"][column]["bar"] == pytest.approx(share, abs=2e-4), metric


def test_columns_carry_the_documentation_of_their_metric(evaluated):
    for column in leaderboard(Material(evaluated)).data["columns"]:
        text = METRICS[column["name"].replace(" ", "_")].__doc__.replace("`", "")
        assert column["definition"].split()[:6] == text.split()[:6]
        assert " ".join(column["weakness"].split()) in " ".join(text.split())
        assert column["source"]


def test_a_record_of_an_older_version_recommends_as_well(evaluated):
    record = concluded().to_dict()
    for part in ("recommendation", "agreeing", "same_map"):
        del record[part]
    for about in record["metrics"].values():
        for part in ("definition", "weakness", "source"):
            del about[part]
    keep(evaluated, "leaderboard", 2, numbers=record)
    data = leaderboard(Material(evaluated)).data
    assert data["recommended"] == "deeplift(steps=3)"
    assert data["columns"][0]["definition"] == ""
    assert data["rows"][4]["note"] == "map ignores shifts of the image"
    keep(evaluated, "leaderboard", 2, numbers=concluded().to_dict())


# --- in the browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["1280 light", "390 dark"])
def tab(request, evaluated, browser):
    width, scheme = request.param
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme, "has_touch": width < 600}
    with opened(browser, evaluated.folder / "report.html", **options) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        yield tab


def names(tab, body=0):
    """The methods of the visible rows."""
    headings = tab.locator(".board tbody").nth(body).locator("tr:not([hidden]) th")
    return [text.split("\n")[0].split("(")[0] for text in headings.all_inner_texts()]


@pytest.mark.slow
def test_the_page_concludes(tab):
    assert "Recommended: deeplift, the most faithful method" in tab.locator(".recommended").inner_text()
    assert "lrp.epsilon equals input_x_gradient" in tab.locator(".recommended").inner_text()
    chosen = tab.locator(".board tr.chosen th").inner_text()
    assert chosen.startswith("deeplift")
    assert "recommended" in chosen
    assert (
        "same map for every image" in tab.locator(".board tr", has_text="deconvnet").locator("td").nth(1).inner_text()
    )
    shares = tab.locator(".board tr", has_text="gradient").first.locator(".bar")
    drawn = shares.first.evaluate("bar => getComputedStyle(bar).backgroundImage")
    assert drawn.startswith("linear-gradient(to right, ")
    assert faults(tab, "#leaderboard") == []


@pytest.mark.slow
def test_equal_methods_unfold(tab):
    assert names(tab) == ["gradient", "input_x_gradient", "deeplift", "deconvnet", "guided_backprop"]
    button = tab.locator(".board button.fold")
    assert button.inner_text() == "= lrp.epsilon"
    button.click()
    assert names(tab) == ["gradient", "input_x_gradient", "lrp.epsilon", "deeplift", "deconvnet", "guided_backprop"]
    tab.get_by_role("button", name="random logit").first.click()
    ranked = [name for name in sorted(MEANS["random_logit"], key=MEANS["random_logit"].get) if name not in CONTROLS]
    assert names(tab) == [name.split("(")[0] for name in ranked]
    button.focus()
    tab.keyboard.press("Enter")
    assert "lrp.epsilon" not in names(tab)
    assert button.get_attribute("aria-expanded") == "false"


@pytest.mark.slow
def test_definitions_open_by_pointer_touch_and_keyboard(tab):
    panel, buttons = tab.locator(".definition"), tab.locator(".board .ask")
    assert not panel.is_visible()
    is_touch = tab.viewport_size["width"] < 600
    first = buttons.nth(0)
    first.tap() if is_touch else first.click()
    text = METRICS["selectivity"]().about()
    assert text["weakness"] in panel.inner_text()
    assert text["definition"] in panel.inner_text()
    assert first.get_attribute("aria-expanded") == "true"
    tab.get_by_role("button", name="Definition of continuity").focus()
    tab.keyboard.press("Enter")
    assert panel.locator("h3").inner_text() == "continuity"
    assert (first.get_attribute("aria-expanded"), buttons.nth(1).get_attribute("aria-expanded")) == ("false", "true")
    assert faults(tab, "#leaderboard") == []
    tab.keyboard.press("Escape")
    assert not panel.is_visible()
    assert buttons.nth(1).evaluate("button => button === document.activeElement")


@pytest.mark.slow
def test_curves_are_those_of_the_run_and_can_be_picked(tab):
    charts, readout = tab.locator(".removal"), tab.locator(".removal .readout")
    listed = [text.strip() for text in charts.locator(".legend button").all_inner_texts()]
    # by the area under the curve; lrp.epsilon is folded
    assert listed == ["deeplift", "input_x_gradient", "guided_backprop", "gradient", "deconvnet", "random", "constant"]
    for svg in charts.locator(".panels svg").all():
        assert svg.locator(".line").count() == len(listed)
    path = charts.locator(".panels svg").first.locator(".line").last.get_attribute("d")  # deeplift, drawn last
    points = np.array([[float(part) for part in pair.split()] for pair in path[1:].split("L")])
    most = np.array([9, -2, -3, -2, 0])
    slope, _ = np.polyfit(most, points[:, 1], 1)
    assert np.allclose(points[:, 1], np.polyval(np.polyfit(most, points[:, 1], 1), most), atol=0.1)
    assert slope < 0
    assert np.allclose(np.diff(points[:, 0]), np.diff(points[:, 0])[0], atol=0.1)
    button = charts.get_by_role("button", name="deeplift")
    button.focus()
    assert "deeplift(steps=3), half of the patches removed: −3.00 (most relevant first), 9.00" in readout.inner_text()
    assert charts.locator(".line.on").count() == 2
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    charts.get_by_role("button", name="constant").focus()
    assert "constant" in readout.inner_text()
    tab.keyboard.press("Tab")
    tab.evaluate("document.activeElement.blur()")
    assert "deeplift" in readout.inner_text()  # pinned
    svg = charts.locator(".panels svg").first
    button.click()  # no longer pinned
    svg.scroll_into_view_if_needed()
    box, spot = svg.bounding_box(), points[1]
    place = (box["x"] + spot[0] * box["width"] / 440, box["y"] + spot[1] * box["height"] / 300)
    if tab.viewport_size["width"] < 600:
        tab.touchscreen.tap(*place)
        assert button.get_attribute("aria-pressed") == "true"
    else:
        tab.mouse.move(*place)
    assert "deeplift" in readout.inner_text()


@pytest.mark.slow
def test_the_table_scrolls_inside_its_region(tab):
    region = tab.locator(".wide:has(.board)")
    wide = region.evaluate("region => region.scrollWidth > region.clientWidth + 1")
    assert wide == (tab.viewport_size["width"] < 600)
    region.evaluate("region => { region.scrollLeft = 1e4; }")
    heading = tab.locator(".board tr.chosen th").bounding_box()
    assert heading["x"] >= region.bounding_box()["x"] - 1  # the names stay
