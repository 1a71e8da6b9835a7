"""`pellucid.evaluate`: intervals, controls, resuming, refusals, and an unmodified model."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError, ShapeError, UnknownName
from pellucid.evaluation import CONTROLS, METRICS

CHEAP = ("selectivity", "completeness", "sparseness")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result(model, images):
    return pellucid.evaluate(model, images, None, ["gradient", "integrated_gradients"], CHEAP)


def test_every_method_and_control_has_a_row_with_an_interval(result):
    assert result.methods == ("gradient", "integrated_gradients", *CONTROLS)
    assert len(result.rows) == 3 * 6
    for row in result.rows:
        assert row.low <= row.value <= row.high
        assert row.images == 12
    assert result.best("completeness") == "integrated_gradients"
    assert result.beaten_by("gradient", "sparseness") == []
    pairs = [pair for pair in result.comparisons if pair.metric == "completeness"]
    assert len(pairs) == 15
    (own,) = (pair for pair in pairs if (pair.method, pair.other) == ("gradient", "integrated_gradients"))
    assert own.difference > 0
    assert own.p < 0.05
    assert "integrated_gradients" in result.ties("completeness")
    assert "gradient" not in result.ties("completeness")


def test_values_are_means_of_the_metric_over_single_images(model, images, result):
    singles = [
        pellucid.evaluate(model, one[None], None, ["gradient"], ["completeness", "selectivity"]) for one in images
    ]
    for metric in ("completeness", "selectivity"):
        values = [single.value("gradient", metric) for single in singles]
        assert result.value("gradient", metric) == pytest.approx(np.mean(values), rel=1e-4)


def test_json_csv_table_and_figure_agree(result):
    record = json.loads(result.to_json())
    assert [row["value"] for row in record["rows"]] == [row.value for row in result.rows]
    lines = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [float(line["value"]) for line in lines] == [row.value for row in result.rows]
    screen = Console(width=200, file=io.StringIO())
    screen.print(result.to_table())
    assert all(name.replace("_", " ") in screen.file.getvalue().replace("_", " ") for name in (*result.methods, *CHEAP))
    figure = result.figure("title")
    bold = [text.get_text() for text in figure.texts if text.get_weight() == "bold"]
    assert f"{result.value('integrated_gradients', 'completeness'):.3f}" in bold


def test_there_is_one_class_of_evaluations(result):
    assert type(result) is pellucid.Evaluation is pellucid.evaluation.Evaluation


def test_results_depend_only_on_the_seed(model, images):
    first, second, other = (
        pellucid.evaluate(model, images, None, ["gradient"], ["continuity", "random_logit"], seed=seed)
        for seed in (0, 0, 1)
    )
    assert [row.value for row in first.rows] == [row.value for row in second.rows]
    assert first.value("gradient", "continuity") != other.value("gradient", "continuity")


def test_the_model_is_not_modified(model, images):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    pellucid.evaluate(model, images[:3], None, ["gradient"], ["parameter_randomisation", "implementation_invariance"])
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_finished_measurements_are_not_recomputed(model, images, tmp_path, monkeypatch):
    arguments = (model, images, None, ["gradient"], CHEAP)
    first = pellucid.evaluate(*arguments, save=tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 3 * 5
    kept[0].unlink()
    kept[1].write_text("{")
    computed = []
    for name in CHEAP:
        measure = METRICS[name].measure
        monkeypatch.setattr(
            METRICS[name], "measure", lambda self, *rest, measure=measure: (computed.append(1), measure(self, *rest))[1]
        )
    again = pellucid.evaluate(*arguments, save=tmp_path)
    assert len(computed) == 2
    assert [row.value for row in again.rows] == [row.value for row in first.rows]
    pellucid.evaluate(model, images + 0.01, None, ["gradient"], ["sparseness"], save=tmp_path)
    assert len(computed) == 2 + 5
    with torch.no_grad():
        model[5].bias += 1
    pellucid.evaluate(model, images, None, ["gradient"], ["sparseness"], save=tmp_path)
    assert len(computed) == 2 + 5 + 5
    pellucid.evaluate(model, images, None, ["gradient"], [METRICS["selectivity"](patch_pixels=2)], save=tmp_path)
    assert len(computed) == 2 + 5 + 5 + 5


class Detached(nn.Module):
    """Leaves the graph, so that no propagation rule applies."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(x.flatten(1) * torch.from_numpy((x.detach().flatten(1).numpy() > 0.2).astype("float32")))


def test_a_method_that_does_not_apply_is_refused_and_the_others_are_measured(images):
    result = pellucid.evaluate(Detached(), images, None, ["gradient", "lrp.epsilon"], ["sparseness"])
    assert result.methods == ("gradient", *CONTROLS)
    assert set(result.refused) == {"lrp.epsilon"}


@pytest.mark.parametrize("control", ["random", "input"])
def test_a_control_that_was_asked_for_appears_once(model, images, control):
    for given in (control, pellucid.create_analyzer(control, model)):
        found = pellucid.evaluate(model, images, None, ["gradient", given], ["sparseness"])
        assert found.methods == ("gradient", *CONTROLS)
    seeded = pellucid.create_analyzer("random", model, seed=7)
    found = pellucid.evaluate(model, images, None, [seeded], ["sparseness"])
    assert found.methods == ("random(seed=7)", *CONTROLS)


def test_invalid_arguments_are_refused_before_any_computation(model, images):
    call = pellucid.evaluate
    with pytest.raises(UnknownName, match="no metric 'selectivty'; did you mean 'selectivity'"):
        call(model, images, None, ["gradient"], ["selectivty"])
    with pytest.raises(UnknownName, match="no method 'gradent'; did you mean 'gradient'"):
        call(model, images, None, ["gradent"], ["sparseness"])
    with pytest.raises(ConfigError, match="'relevance_mass' needs masks"):
        call(model, images, None, ["gradient"], ["relevance_mass"])
    with pytest.raises(ConfigError, match="given more than once"):
        call(model, images, None, ["gradient", "gradient"], ["sparseness"])
    with pytest.raises(ConfigError, match="no metric was given"):
        call(model, images, None, ["gradient"], [])
    with pytest.raises(ShapeError, match="one class index per image"):
        call(model, images, torch.tensor([0]), ["gradient"], ["sparseness"])
    with pytest.raises(ShapeError, match="the model has 3"):
        call(model, images, torch.full((12,), 7), ["gradient"], ["sparseness"])
    with pytest.raises(ShapeError, match="expected booleans"):
        call(model, images, None, ["gradient"], ["sparseness"], masks=torch.ones(12, 8, 8))
    with pytest.raises(ConfigError, match="explains another model"):
        call(model, images, None, [pellucid.create_analyzer("gradient", nn.Flatten())], ["sparseness"])


def test_an_evaluation_prints_as_a_table() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    result = pellucid.evaluate(
        linear, torch.rand(4, 1, 4, 4), None, ["input_x_gradient"], ["completeness", "sparseness"]
    )
    heading, columns, first, *controls, conclusion = repr(result).splitlines()
    assert heading == "Evaluation of 4 images, seed 0"
    assert columns.split() == ["completeness", "↓", "sparseness", "↑"]
    assert first.split() == ["input_x_gradient", "0.000*", f"{result.value('input_x_gradient', 'sparseness'):.3f}*"]
    assert [line.split()[0] for line in controls] == ["random", "constant", "sobel", "input"]
    assert conclusion == result.recommendation.reason == "No faithfulness metric was measured, such as selectivity."


def test_measurements_are_named_as_in_earlier_versions(tmp_path) -> None:
    """A cached measurement is only found under the same name."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.arange(value.numel()).reshape(value.shape) / 8)
    images = torch.arange(32).reshape(2, 1, 4, 4) / 255
    pellucid.evaluate(model, images, None, ["gradient"], ["sparseness"], seed=3, save=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "1f25257ae4f2cd439f94c9c7.json",
        "490cc2b13c043f19d1edacb4.json",
        "554657e9842f94cdd0699280.json",
        "b29c00c7edbfe196d7efbd4d.json",
        "f75bd10b2377ea907b9ba17e.json",
    }
