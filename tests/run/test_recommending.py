"""`pellucid.recommend` on models for which the best method is known, on budgets of any size, and on invalid input."""

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid.errors import ConfigError, ShapeError, UnknownName
from pellucid.evaluation import CONTROLS, METRICS
from pellucid.evaluation._ranks import mean_ranks, worse_than

METHODS = ["gradient", "input_x_gradient", "smoothgrad", "deconvnet"]
QUICK = ["selectivity", "sensitivity_n", "random_logit"]


def images_of(count, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def linear():
    """The relevance of a pixel is its weight times its value, by every definition."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)).eval()
    weights = torch.rand(4, 64, generator=torch.Generator().manual_seed(0))
    model[1].weight.data = weights * (weights > 0.6)
    return model


@pytest.fixture(scope="module")
def result(linear):
    return pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=60_000)


def test_the_exact_method_of_a_linear_model_is_recommended(linear, result):
    assert result.method == "input_x_gradient"
    assert result.evaluation.value("input_x_gradient", "sensitivity_n") > 0.999
    expected = linear[1].weight[linear(images_of(2)).argmax(1)].view(2, 1, 8, 8) * images_of(2)
    torch.testing.assert_close(result.analyzer().analyze(images_of(2)), expected.detach())
    assert result.ranking[0].method == "input_x_gradient"
    assert result.method == result.evaluation.recommendation.method


def test_maps_that_ignore_the_image_are_excluded(result):
    assert result.excluded["deconvnet"] == "Its map for a given class is the same for every image."
    assert "gradient" in result.excluded  # of a linear model, too
    assert "deconvnet" not in [one.method for one in result.ranking]


def test_the_reason_states_the_measurements(result):
    row = next(one for one in result.evaluation.rows if (one.method, one.metric) == (result.method, "selectivity"))
    assert result.reason.startswith("Recommended: input_x_gradient, the most faithful method (selectivity ")
    assert f"{row.low:.3g} to {row.high:.3g}".replace("-", "−") in result.reason
    assert f"over {result.evaluation.images} images" in result.reason
    assert "significantly better than every control" in result.reason


def test_the_cost_is_counted_and_within_the_budget(linear, result):
    seen = []
    handle = linear.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        again = pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=60_000)
    finally:
        handle.remove()
    # the user's own hook is copied with the reinitialized models, and counts the same passes
    assert again.cost == result.cost == sum(seen)
    assert 0 < result.cost <= result.budget == 60_000


def test_results_are_deterministic_by_seed(linear, result):
    again = pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=60_000)
    assert again.ranking == result.ranking
    assert again.reason == result.reason
    other = pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=60_000, seed=5)
    assert other.method == result.method
    assert other.evaluation.rows != result.evaluation.rows


def test_the_model_and_the_random_state_are_left_alone(linear):
    linear.train()
    state = torch.random.get_rng_state()
    pellucid.recommend(linear, images_of(3), methods=["gradient"], metrics=["selectivity"], budget=5000)
    assert linear.training
    assert not linear._forward_pre_hooks
    assert torch.equal(state, torch.random.get_rng_state())
    linear.eval()


def test_tied_methods_are_those_not_worse_in_rank(linear):
    methods = ["input_x_gradient", "lrp.epsilon", "grad_cam"]
    found = pellucid.recommend(linear, images_of(16), methods=methods, metrics=QUICK, budget=60_000)
    equal = {"input_x_gradient", "lrp.epsilon"}
    assert found.method in equal
    assert set(found.tied) == equal - {found.method}
    rivals = [found.method, *found.tied]
    ranks = mean_ranks(found.evaluation, rivals, QUICK[:2])
    assert worse_than(ranks, 0, 0.05, 0) == []
    (other,) = found.tied
    assert f"{other} agrees with it to three digits in every metric." in found.reason


def test_a_budget_too_small_to_tell_recommends_nothing(linear):
    found = pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=2000)
    assert found.method is None
    assert found.tied == ()
    assert "The budget is 2,000; raise it, or pass fewer methods or metrics." in found.reason
    with pytest.raises(ConfigError, match="no method is recommended, so there is no analyzer"):
        found.analyzer()
    wanted = int(found.reason.split(" forward passes")[0].split()[-1].replace(",", ""))
    enough = pellucid.recommend(linear, images_of(24), methods=METHODS, metrics=QUICK, budget=2 * wanted)
    assert enough.method == "input_x_gradient"


def test_few_images_recommend_nothing(linear):
    found = pellucid.recommend(linear, images_of(3), methods=METHODS, metrics=QUICK)
    assert found.method is None
    assert found.reason.endswith("differences on fewer than 12 can hardly be significant.")


def test_an_output_that_ignores_the_image_recommends_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    model[1].weight.data.zero_()
    found = pellucid.recommend(model, images_of(16), methods=["input_x_gradient", "smoothgrad"], metrics=QUICK)
    assert found.method is None
    assert "No method is recommended" in found.reason


def test_expensive_methods_are_excluded_with_their_price(linear):
    methods = ["input_x_gradient", "rise"]
    found = pellucid.recommend(linear, images_of(16), methods=methods, metrics=QUICK, budget=30_000)
    assert found.method == "input_x_gradient"
    assert "forward passes per image, too many for the budget of 30,000" in found.excluded["rise"]
    assert found.cost <= 30_000


def test_methods_that_do_not_apply_are_excluded_with_the_reason(linear):
    found = pellucid.recommend(linear, images_of(16), methods=["input_x_gradient", "grad_cam"], metrics=QUICK)
    assert found.method == "input_x_gradient"
    assert "grad_cam" in found.excluded


def test_two_classes_colors_labels_and_a_target():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 2
    methods, metrics = ["input_x_gradient", "gradient"], ["sensitivity_n"]
    found = pellucid.recommend(model, images, labels, methods=methods, metrics=metrics, target=1)
    assert found.evaluation.images == 16
    each = pellucid.recommend(model, images, labels, methods=methods, metrics=metrics, target=torch.ones(16).long())
    assert found.evaluation.rows == each.evaluation.rows


def test_text_html_and_figure_show_the_ranking(result):
    text, html, figure = repr(result), result._repr_html_(), result.figure()
    for one in result.ranking:
        assert one.method in text
        assert one.method in html
        assert any(part.get_text() == one.method for part in figure.texts)
    assert "recommended" in text
    assert "deconvnet" in html
    assert f"{result.cost:,}" in html


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"budget": "huge"}, UnknownName, "huge"),
        ({"budget": 10}, ConfigError, "budget is 10 forward passes; expected at least 1,000"),
        ({"metrics": ["sparseness"]}, ConfigError, "none of them measures faithfulness"),
        ({"metrics": ["roar"]}, ConfigError, "needs training"),
        ({"methods": ["no_such"]}, UnknownName, "no_such"),
        ({"methods": []}, ConfigError, "methods is empty"),
        ({"labels": torch.zeros(2)}, ShapeError, "labels has shape"),
        ({"target": 9}, ShapeError, "targets has classes 9"),
        ({"images": (images_of(2), images_of(2))}, ShapeError, "several inputs"),
        ({"images": torch.rand(3, 64), "metrics": ["insertion"]}, ShapeError, "'insertion' cannot measure a table"),
        ({"images": torch.zeros(2, 8, dtype=torch.int64)}, ShapeError, "token ids"),
    ],
)
def test_invalid_arguments_are_refused(linear, more, error, message):
    arguments = {"images": images_of(3), "methods": METHODS, "metrics": QUICK, **more}
    with pytest.raises(error, match=message):
        pellucid.recommend(linear, **arguments)


def test_a_single_output_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(ShapeError, match="two logits"):
        pellucid.recommend(model, images_of(3))


def test_controls_are_never_recommended(result):
    assert result.method not in CONTROLS
    assert set(CONTROLS) <= set(result.evaluation.methods)
    assert all(name in METRICS for name in result.evaluation.metrics)
    assert np.isfinite([one.rank for one in result.ranking]).all()


def test_functions_and_tables_have_defaults_of_their_own():
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    table = torch.rand(14, 5, generator=torch.Generator().manual_seed(0))
    result = pellucid.recommend(pellucid.function(lambda x: x @ weights), table, budget=20_000)
    assert {*result.evaluation.methods, *result.excluded} >= {"feature_ablation", "kernel_shap"}
    assert "gradient" not in result.evaluation.methods
    assert set(result.evaluation.metrics) == {
        "selectivity", "insertion(removal=zero)", "sensitivity_n", "random_logit(kind=spearman)",
    }  # fmt: skip
    own = pellucid.recommend(nn.Linear(5, 3), table, methods=["input_x_gradient"], budget=20_000)
    assert any(label.startswith("parameter_randomisation") for label in own.evaluation.metrics)
