"""Leaderboard section: the verdicts match `Evaluation`."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.evaluation import CONTROLS, Evaluation
from pellucid.report import Material
from pellucid.report.sections.leaderboard import leaderboard


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
