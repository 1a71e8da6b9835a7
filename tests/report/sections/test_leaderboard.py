"""The leaderboard's verdicts are those of `Evaluation`."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.evaluation import CONTROLS, Evaluation
from pellucid.report._material import Material
from pellucid.report.sections.leaderboard import leaderboard


def rows_of(section):
    return {row["method"]: row for row in section.data["rows"]}


def test_verdicts_are_told_in_words(store):
    section = leaderboard(Material(store))
    assert [column["name"] for column in section.data["columns"]] == ["selectivity", "continuity"]
    rows = rows_of(section)
    told = {method: [cell and (cell["verdict"], cell["said"]) for cell in row["cells"]] for method, row in rows.items()}
    assert told == {
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
        "Made at the end, with the best weights, of epoch 1.",
        "Not applicable: lrp.epsilon: no rule for it",
    )


@pytest.fixture(scope="module")
def evaluation():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    images = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    metrics = ["completeness", "sparseness"]
    return pellucid.evaluate(network, images, None, ["gradient", "input_x_gradient", "lrp.epsilon"], metrics)


def test_an_evaluation_is_read_back_as_it_was_told(evaluation):
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
def test_a_record_that_is_none_is_an_error(name, evaluation):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Evaluation.from_dict({key: value for key, value in evaluation.to_dict().items() if key != name})
