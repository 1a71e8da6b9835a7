"""Conclusions of an evaluation: each follows from means and tests that are computed here once more."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pellucid.evaluation import CONTROLS, METRICS, Evaluation
from pellucid.evaluation._conclusions import agreeing, labels, name_in, representative
from pellucid.evaluation._evaluation import Scores
from pellucid.evaluation._recommendation import FAITHFULNESS, most_faithful, relation
from pellucid.storage.evaluations import evaluate

IMAGES = 40
METHODS = ("gradient", "deeplift", "lrp.epsilon", "input_x_gradient", "guided_backprop", "deconvnet(steps=3)")
ABOUT = {name: METRICS[name]().about() for name in ("selectivity", "deletion", "continuity", "sparseness")}
ABOUT |= {name: METRICS[name]().about() for name in ("random_logit", "parameter_randomisation")}


def made(values, about=ABOUT, **more):
    """An evaluation with these per-image values by (method, metric)."""
    methods = tuple(dict.fromkeys(method for method, _ in values))
    scores = {key: Scores(np.asarray(one, float).tolist(), {}, {}) for key, one in values.items()}
    used = {metric: about[metric] for metric in about if any(one == metric for _, one in values)}
    return Evaluation(methods, used, scores, IMAGES, 0, **more)


def noisy(mean, seed, spread=0.1):
    return mean + spread * np.random.default_rng(seed).standard_normal(IMAGES)


def simple(means, metric="selectivity", controls=3.0, **others):
    """An evaluation by one metric with these means, and controls around `controls`; more metrics by keyword."""
    values = {(name, metric): noisy(mean, seed) for seed, (name, mean) in enumerate(means.items())}
    values |= {(name, metric): noisy(controls, 50 + seed) for seed, name in enumerate(CONTROLS)}
    for other, row in others.items():
        values |= {(name, other): noisy(mean, 100 + seed) for seed, (name, mean) in enumerate(row.items())}
    return made(values)


@cache
def drawn(seed):
    """A random evaluation: some methods are equal, some insensitive, some worse than the controls."""
    draw = np.random.default_rng(seed)
    chosen = [name for name in ABOUT if draw.random() < 0.8] or ["selectivity"]
    values = {}
    for metric in chosen:
        better = 1 if ABOUT[metric]["is_higher_better"] else -1
        for name in (*METHODS, *CONTROLS):
            # controls are worse by one standard deviation on average
            level = draw.normal() - better * (name in CONTROLS)
            values[name, metric] = level + draw.choice([0.05, 1.0]) * draw.standard_normal(IMAGES)
        if metric == "random_logit":
            values["guided_backprop", metric] = np.clip(draw.normal(0.8, 0.1, IMAGES), -1, 1)
        if seed % 3 == 0:
            values["input_x_gradient", metric] = values["lrp.epsilon", metric] + 1e-5
    same = ("deconvnet(steps=3)",) if seed % 2 else ()
    return made(values, same_map=same)


def mean(evaluation, method, metric):
    """The mean, with the sign that makes higher better."""
    sign = 1 if evaluation.metrics[metric]["is_higher_better"] else -1
    return sign * np.mean(evaluation.scores[method, metric].values)


@pytest.mark.parametrize("seed", range(12))
def test_the_recommended_method_of_random_evaluations_beats_every_control(seed):
    evaluation = drawn(seed)
    chosen = evaluation.recommendation.method
    metrics = [metric for metric in evaluation.metrics if metric in FAITHFULNESS]
    if chosen is None:
        return
    assert chosen not in CONTROLS
    assert chosen not in evaluation.same_map
    is_significant = []
    for metric in metrics:
        own = mean(evaluation, chosen, metric)
        assert all(own >= mean(evaluation, control, metric) for control in CONTROLS)
        ps = [
            stats.ttest_rel(*(evaluation.scores[name, metric].values for name in (chosen, control))).pvalue
            for control in CONTROLS
        ]
        is_significant.append(max(ps) < 0.05)
    assert any(is_significant)
    if "random_logit" in evaluation.metrics:
        similarity = evaluation.scores[chosen, "random_logit"].values
        assert np.mean(similarity) - 1.96 * stats.sem(similarity) < 0.7
        assert chosen != "guided_backprop"


def test_random_evaluations_recommend_something_and_nothing():
    chosen = {drawn(seed).recommendation.method for seed in range(12)}
    assert None in chosen
    assert len(chosen) > 2


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_random_evaluations_hold_equal_methods_only(seed):
    evaluation = drawn(seed)
    for group in evaluation.agreeing:
        assert not set(group.methods) & set(CONTROLS)
        for metric in evaluation.metrics:
            means = [mean(evaluation, method, metric) for method in group.methods]
            assert np.ptp(means) <= 0.0005 * max(1, np.abs(means).max())
    grouped = [set(group.methods) for group in evaluation.agreeing]
    is_equal = seed % 3 == 0 and len(evaluation.metrics) > 1
    assert ({"lrp.epsilon", "input_x_gradient"} in grouped) == is_equal


@pytest.mark.parametrize("seed", range(1, 12, 2))
def test_a_map_that_ignores_the_image_never_leads_continuity(seed):
    evaluation = drawn(seed)
    (constant,) = evaluation.same_map
    for metric, about in evaluation.metrics.items():
        if about["name"] == "continuity":
            assert evaluation.best(metric) != constant
            assert constant not in evaluation.ties(metric)
    assert labels(evaluation)[constant] == "same map for every image"


def test_conclusions_survive_a_round_trip():
    for seed in range(6):
        evaluation = drawn(seed)
        again = Evaluation.from_dict(evaluation.to_dict())
        assert again.recommendation == evaluation.recommendation
        assert again.agreeing == evaluation.agreeing
        assert again.constant_maps == evaluation.constant_maps
        assert again.conclusions == evaluation.conclusions


def test_the_reason_states_the_metric_and_the_controls():
    evaluation = simple({"gradient": 1.0, "deeplift": 0.2})
    assert evaluation.recommendation.method == "deeplift"
    value = np.mean(evaluation.scores["deeplift", "selectivity"].values)
    assert evaluation.recommendation.reason == (
        f"Recommended: deeplift, the most faithful method (selectivity {value:.3g}), and significantly better than "
        "every control."
    )


def test_a_tie_is_broken_by_the_other_metrics():
    evaluation = simple({"gradient": 0.2, "deeplift": 0.2}, continuity={"gradient": 0.9, "deeplift": 0.1})
    assert set(most_faithful(evaluation)) == {"gradient", "deeplift"}
    recommended = evaluation.recommendation
    assert (recommended.method, recommended.tied) == ("deeplift", ("gradient",))
    assert "statistically tied with gradient" in recommended.reason
    assert recommended.reason.endswith("It is significantly better than gradient in continuity.")


def test_methods_like_a_control_are_not_recommended():
    evaluation = simple({"gradient": 3.0, "deeplift": 3.05}, controls=3.0)
    assert evaluation.recommendation.method is None
    assert evaluation.recommendation.reason == (
        "No method is recommended. None is significantly better than every control in selectivity."
    )
    assert most_faithful(evaluation) == ()


def test_a_method_worse_than_a_control_in_one_faithfulness_metric_is_not_recommended():
    values = {("gradient", "selectivity"): noisy(0, 1), ("deeplift", "selectivity"): noisy(1, 2)}
    values |= {("gradient", "deletion"): noisy(4, 3), ("deeplift", "deletion"): noisy(1, 4)}
    values |= {(one, metric): noisy(3, 5) for one in CONTROLS for metric in ("selectivity", "deletion")}
    assert made(values).recommendation.method == "deeplift"


def test_without_a_method_that_qualifies_the_closest_one_is_named():
    values = {("gradient", "selectivity"): noisy(0, 1), ("gradient", "deletion"): noisy(4, 3)}
    values |= {(one, metric): noisy(3, 5) for one in CONTROLS for metric in ("selectivity", "deletion")}
    recommended = made(values).recommendation
    assert recommended.method is None
    assert recommended.reason == (
        "No method is recommended. The closest one, gradient, is significantly better than every control in "
        "selectivity, but worse than a control in deletion."
    )


def test_the_method_that_leads_in_most_faithfulness_metrics_is_recommended():
    values = {("gradient", "selectivity"): noisy(1, 1), ("deeplift", "selectivity"): noisy(1, 1)}
    values |= {("gradient", "deletion"): noisy(2, 3), ("deeplift", "deletion"): noisy(1, 4)}
    values |= {(one, metric): noisy(3, 5) for one in CONTROLS for metric in ("selectivity", "deletion")}
    evaluation = made(values)
    assert most_faithful(evaluation) == ("deeplift",)
    recommended = evaluation.recommendation
    assert (recommended.method, recommended.tied) == ("deeplift", ())
    assert "every control in selectivity and deletion." in recommended.reason


def test_methods_that_differ_in_a_metric_of_faithfulness_are_not_called_tied():
    values = {("gradient", "selectivity"): noisy(0, 1), ("deeplift", "selectivity"): noisy(1, 2)}
    values |= {("gradient", "deletion"): noisy(1, 3), ("deeplift", "deletion"): noisy(0, 4)}
    values |= {(one, metric): noisy(3, 5) for one in CONTROLS for metric in ("selectivity", "deletion")}
    evaluation = made(values)
    assert set(most_faithful(evaluation)) == {"gradient", "deeplift"}
    assert evaluation.recommendation.tied == ()
    assert "tied" not in evaluation.recommendation.reason
    assert "one of the most faithful methods" in evaluation.recommendation.reason
    assert relation(evaluation, most_faithful(evaluation)) == "none leads in every metric"
    equal = simple({"gradient": 0.2, "deeplift": 0.2})
    assert relation(equal, most_faithful(equal)) == "statistically tied"


def test_methods_of_one_name_keep_their_options():
    evaluation = simple({"smoothgrad(samples=4)": 1.0, "smoothgrad(samples=8)": 0.2, "occlusion(window=3)": 1.0})
    assert evaluation.recommendation.reason.startswith("Recommended: smoothgrad(samples=8), ")
    assert name_in(evaluation, "occlusion(window=3)") == "occlusion"


def test_significance_and_direction_are_of_the_same_images():
    # better on the 20 common images, worse in the mean, since the second one is defined only for the easy half
    first, second = noisy(1.0, 1), noisy(1.5, 2)
    first[20:] = 5.0
    second[20:] = np.nan
    scores = {
        (name, "selectivity"): Scores([None if np.isnan(one) else one for one in values.tolist()], {}, {})
        for name, values in (("gradient", first), ("deeplift", second))
    }
    evaluation = Evaluation(("gradient", "deeplift"), {"selectivity": ABOUT["selectivity"]}, scores, IMAGES, 0)
    assert not ABOUT["selectivity"]["is_higher_better"]
    assert evaluation.is_better("gradient", "deeplift", "selectivity")
    assert not evaluation.is_better("deeplift", "gradient", "selectivity")


@pytest.mark.parametrize(
    ("metric", "value", "remark"),
    [("random_logit", 0.9, "have a similarity of 0.9"), ("parameter_randomisation", 1.0, "weights are randomized")],
)
def test_insensitive_methods_are_not_recommended_but_named(metric, value, remark):
    evaluation = simple({"gradient": 1.0, "guided_backprop": 0.2}, **{metric: {"gradient": 0.2}})
    scores = dict(evaluation.scores) | {("guided_backprop", metric): Scores([value] * IMAGES, {}, {})}
    evaluation = replace(evaluation, scores=scores)
    assert most_faithful(evaluation) == ("guided_backprop",)
    assert evaluation.recommendation.method == "gradient"
    assert "guided_backprop is not recommended" in evaluation.recommendation.reason
    assert remark in evaluation.recommendation.reason


def test_rank_correlations_of_two_classes_call_no_method_class_insensitive():
    about = METRICS["random_logit"](kind="spearman").about()
    evaluation = made({("gradient", "random_logit"): noisy(0.9, 1, 0.01)}, {"random_logit": about})
    assert labels(evaluation) == {}


def test_without_a_faithfulness_metric_nothing_is_recommended():
    evaluation = made({(one, "sparseness"): noisy(0.5, 1) for one in ("gradient", *CONTROLS)})
    assert evaluation.recommendation.method is None
    assert evaluation.recommendation.reason.startswith("No faithfulness metric was measured")


def test_the_reason_for_equal_methods_is_stated_for_the_two_rules_only():
    both = {metric: noisy(0.5, 1) for metric in ("selectivity", "sparseness")}
    pair = made({(one, metric): value for one in ("lrp.epsilon", "input_x_gradient") for metric, value in both.items()})
    other = made({(one, metric): value for one in ("gradient", "deeplift") for metric, value in both.items()})
    assert "piecewise-linear" in pair.agreeing[0].reason
    assert other.agreeing[0].reason == "gradient and deeplift agree to three digits in every metric on this network."
    single = made({(one, "sparseness"): both["sparseness"] for one in ("gradient", "deeplift")})
    assert agreeing(single) == []


@pytest.mark.parametrize(("level", "gap", "is_grouped"), [(0.5, 0.0004, True), (0.5, 0.0006, False), (500, 0.2, True),
                                                          (500, 0.3, False)])  # fmt: skip
def test_groups_agree_to_three_digits(level, gap, is_grouped):
    values = {("gradient", metric): noisy(level, 1) for metric in ("sparseness", "continuity")}
    values |= {("deeplift", metric): value for (_, metric), value in values.items()}
    values["deeplift", "continuity"] = values["gradient", "continuity"] + gap
    assert bool(made(values).agreeing) == is_grouped


def test_the_representative_of_a_group_is_its_best_method():
    values = {
        (one, metric): noisy(0.5, 1) for one in ("gradient", "deeplift") for metric in ("sparseness", "continuity")
    }
    values["deeplift", "sparseness"] = values["gradient", "sparseness"] + 1e-5
    values["deeplift", "continuity"] = values["gradient", "continuity"] - 1e-5
    evaluation = made(values)
    assert representative(evaluation, evaluation.agreeing[0]) == "deeplift" == evaluation.best("sparseness")


def test_methods_not_measured_by_a_metric_are_not_equal_to_measured_ones():
    values = {("gradient", metric): noisy(0.5, 1) for metric in ("sparseness", "continuity")}
    evaluation = made(values | {("deeplift", "sparseness"): values["gradient", "sparseness"]})
    assert evaluation.agreeing == []


def test_methods_that_are_measured_by_no_metric_do_not_agree():
    values = {
        (one, metric): np.full(IMAGES, np.nan if one != "gradient" else 0.5)
        for one in ("gradient", "lrp.epsilon", "input_x_gradient")
        for metric in ("sparseness", "continuity")
    }
    scores = {key: Scores([None if np.isnan(one) else one for one in column], {}, {}) for key, column in values.items()}
    evaluation = Evaluation(
        ("gradient", "lrp.epsilon", "input_x_gradient"),
        {metric: ABOUT[metric] for metric in ("sparseness", "continuity")},
        scores,
        IMAGES,
        0,
    )
    assert evaluation.agreeing == []


# --- maps that ignore the image ---------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


@pytest.fixture(scope="module")
def measured():
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return evaluate(
        network(), images, None, ["gradient", "deconvnet", "input_x_gradient"], ["selectivity", "continuity"]
    )


def test_deconvnet_without_pooling_ignores_the_image(measured):
    assert measured.same_map == ("deconvnet",)
    assert measured.value("deconvnet", "continuity") == 0
    assert measured.best("continuity") == "gradient"  # whose change is the smaller one of the other two
    assert measured.value("gradient", "continuity") < measured.value("input_x_gradient", "continuity")
    assert "deconvnet: its map for a given class is the same for every image." in repr(measured)
    assert "same map for every image" not in measured.recommendation.reason
    assert "deconvnet: its map for a given class is the same" in measured._repr_html_()


def test_deconvnet_with_pooling_follows_the_image():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).eval()
    assert evaluate(pooled, images, None, ["deconvnet"], ["continuity"]).same_map == ()


def test_the_gradient_of_a_linear_model_ignores_the_image():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert evaluate(linear, images, None, ["gradient", "input_x_gradient"], ["continuity"]).same_map == ("gradient",)


@pytest.mark.parametrize("images", [torch.rand(1, 1, 8, 8), torch.ones(4, 1, 8, 8)], ids=["one image", "equal images"])
def test_without_different_images_nothing_is_known(images):
    assert evaluate(network(), images, None, ["deconvnet"], ["selectivity"]).same_map is None


def test_a_record_without_the_comparison_uses_the_shifts_of_continuity(measured):
    record = {key: value for key, value in measured.to_dict().items() if key != "same_map"}
    old = Evaluation.from_dict(record)
    assert list(old.constant_maps) == ["deconvnet"]
    assert labels(old) == {"deconvnet": "map ignores shifts of the image"}
    assert old.best("continuity") == "gradient"
    unshifted = record["metrics"]["continuity"] | {"options": {"pixels": 0}}
    noise = Evaluation.from_dict(record | {"metrics": record["metrics"] | {"continuity": unshifted}})
    assert noise.constant_maps == {}  # small noise may change no activation


# --- the figure and the table -----------------------------------------------------------------------------------


def labeled():
    """Two equal methods, a class-insensitive one and one that ignores the image, by three metrics."""
    means = {"input_x_gradient": 1.0, "lrp.epsilon": 1.0, "guided_backprop": 2.0, "deconvnet": 2.5}
    curves = {"share": [0.0, 0.5, 1.0], "most": [3.0, 1.0, 0.0], "least": [3.0, 2.0, 0.0]}
    scores = {}
    for name in (*means, *CONTROLS):
        scores[name, "selectivity"] = Scores(noisy(means.get(name, 4.0), 0).tolist(), {}, curves)
        scores[name, "continuity"] = Scores(noisy(0.0 if name == "deconvnet" else 0.5, 1, 0).tolist(), {}, {})
        alike = noisy(0.9 if name == "guided_backprop" else 0.2, 2, 0.01)
        scores[name, "random_logit"] = Scores(alike.tolist(), {}, {})
    about = {metric: ABOUT[metric] for metric in ("selectivity", "continuity", "random_logit")}
    return Evaluation((*means, *CONTROLS), about, scores, IMAGES, 0, same_map=("deconvnet",))


def test_the_figure_folds_equal_methods_and_labels_the_others():
    evaluation = labeled()
    figure = evaluation.figure()
    texts = [text.get_text() for text in figure.texts]
    assert "lrp.epsilon" not in texts
    assert {"= lrp.epsilon", "nearly class-insensitive", "same map for every image"} <= set(texts)
    assert "Recommended: input_x_gradient" in " ".join(texts)
    listed = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "lrp.epsilon" not in listed
    assert "input_x_gradient" in listed
    bold = [text.get_text() for text in figure.texts if text.get_weight() == "bold"]
    assert "0.000" not in bold  # the continuity of deconvnet
    assert "0.500" in bold


def test_the_table_labels_methods():
    table = labeled().to_table()
    assert list(table.columns[0].cells)[1:4] == ["lrp.epsilon", "guided_backprop †", "deconvnet †"]
    assert table.caption == "† guided_backprop: nearly class-insensitive; † deconvnet: same map for every image"
    assert list(table.columns[2].cells)[3] == "[dim]0[/dim]"  # not the best continuity
