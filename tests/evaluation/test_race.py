"""The race of methods: ranks against SciPy, the error rate of its tests, its counts, and its rounds."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pellucid.errors import ModelError
from pellucid.evaluation import CONTROLS, METRICS, Evaluation
from pellucid.evaluation._evaluation import Scores
from pellucid.evaluation._joining import joined
from pellucid.evaluation._passes import Passes, TooExpensive, counted
from pellucid.evaluation._race import Finish, Race, _behind, balanced, race
from pellucid.evaluation._ranks import mean_ranks, ranked, worse_than
from pellucid.evaluation._recommended import concluded
from pellucid.evaluation._run import plan, run

METRICS_USED = ("selectivity", "insertion")
ABOUT = {name: METRICS[name]().about() for name in METRICS_USED}


def made(values, images):
    """An evaluation with these per-image values by (method, metric)."""
    methods = tuple(dict.fromkeys(method for method, _ in values))
    scores = {key: Scores([None if np.isnan(v) else v for v in one.tolist()], {}, {}) for key, one in values.items()}
    return Evaluation(methods, ABOUT, scores, images, 0)


def drawn(means, images=20, seed=0, controls=0.0):
    """Values around `means` by method, on a scale where higher is better; noise of standard deviation 1."""
    draw = np.random.default_rng(seed)
    sign = {metric: 1 if about["is_higher_better"] else -1 for metric, about in ABOUT.items()}
    levels = {**means, **dict.fromkeys(CONTROLS, controls)}
    return {
        (name, metric): sign[metric] * (np.broadcast_to(level, len(ABOUT))[n] + draw.standard_normal(images))
        for name, level in levels.items()
        for n, metric in enumerate(ABOUT)
    }


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


# --- ranks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_mean_ranks_are_those_of_scipy(seed):
    draw = np.random.default_rng(seed)
    methods = ("a", "b", "c", "d")
    values = {(name, metric): draw.integers(0, 4, 15).astype(float) for name in methods for metric in METRICS_USED}
    expected = np.zeros((15, 4))
    for metric in METRICS_USED:
        sign = -1 if ABOUT[metric]["is_higher_better"] else 1
        expected += stats.rankdata([sign * values[name, metric] for name in methods], axis=0).T / 2
    np.testing.assert_allclose(mean_ranks(made(values, 15), methods, METRICS_USED), expected)


def test_rounding_errors_share_a_rank():
    values = {(name, metric): 5.0 + draw for name, draw in (("a", 0.0), ("b", 2e-4), ("c", 0.5)) for metric in ABOUT}
    values = {key: np.full(4, one) for key, one in values.items()}
    # c is the worst in selectivity, of which less is better, and the best in insertion
    np.testing.assert_allclose(mean_ranks(made(values, 4), "abc", ["selectivity"])[0], [1.5, 1.5, 3.0])
    np.testing.assert_allclose(mean_ranks(made(values, 4), "abc", ["insertion"])[0], [2.5, 2.5, 1.0])


def test_missing_values_have_no_rank():
    values = {(name, metric): np.arange(3.0) for name in "ab" for metric in METRICS_USED}
    values["a", "insertion"] = np.array([np.nan, 5.0, 5.0])
    values["b", "selectivity"] = np.array([-1.0, 9.0, 9.0])
    ranks = mean_ranks(made(values, 3), "ab", METRICS_USED)
    # on the first image, a is second in selectivity and has no insertion
    np.testing.assert_allclose(ranks, [[2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    alone = {("a", "selectivity"): np.arange(3.0), ("b", "selectivity"): np.full(3, np.nan)}
    assert np.isnan(mean_ranks(made(alone, 3), "ab", ["selectivity"])[:, 1]).all()


def test_ranking_is_ordered_with_intervals_around_the_means():
    found = ranked(made(drawn({"a": 0.0, "b": 3.0, "c": 1.0}), 20), "abc", METRICS_USED, 0)
    assert [one.method for one in found] == ["b", "c", "a"]
    assert all(1 <= one.low <= one.rank <= one.high <= 3 for one in found)
    assert math.isclose(sum(one.rank for one in found), 6)


def test_equal_methods_are_rarely_called_worse():
    draw = np.random.default_rng(0)
    # the best of several equal ones is compared, so the choice of it counts as well
    errors = 0
    for seed in range(60):
        ranks = draw.random((24, 4)).argsort(1).argsort(1) + 1.0
        errors += bool(worse_than(ranks, int(ranks.mean(0).argmin()), 0.05 / 3, seed))
    assert errors <= 9  # binomial(60, 0.05) exceeds 9 with a probability of 0.1%


def test_clearly_worse_methods_are_found():
    ranks = np.tile([1.0, 2.0, 3.0], (16, 1)) + 0.1 * np.random.default_rng(0).standard_normal((16, 3))
    assert worse_than(ranks, 0, 0.01, 0) == [1, 2]
    assert worse_than(ranks, 2, 0.01, 0) == []
    assert worse_than(ranks[:, :1], 0, 0.01, 0) == []


# --- who leaves -------------------------------------------------------------------------------------------------


def test_methods_behind_a_sure_one_leave():
    evaluation = made(drawn({"best": 6.0, "near": 5.9, "far": 3.0}, 40), 40)
    assert _behind(evaluation, ["best", "near", "far"], METRICS_USED, 0.01, 0) == ["far"]


def test_a_qualified_method_stays_while_the_best_one_may_lose_to_a_control():
    # the first is best by far in one metric, and no better than the controls in the other
    means = {"doubtful": (9.0, 0.0), "modest": (1.5, 1.5), "poor": (-2.0, -2.0)}
    values = drawn(means, 40, seed=3)
    values["doubtful", "insertion"] = values["modest", "insertion"] + 0.01  # also the better one there
    values["sobel", "insertion"] = values["doubtful", "insertion"] + np.where(np.arange(40) % 2, 5.0, -5.1)
    evaluation = made(values, 40)
    ranks = mean_ranks(evaluation, list(means), METRICS_USED)
    assert 1 in worse_than(ranks, 0, 0.05, 0)
    assert _behind(evaluation, list(means), METRICS_USED, 0.05, 0) == ["poor"]


# --- counting and joining ---------------------------------------------------------------------------------------


def test_passes_are_counted_in_images_and_in_copies(network, images):
    with counted(network) as passes:
        network(images)
        network(images[:1])
        assert passes.total == 7
        deepcopy(network)(images)
        assert passes.total == 13
    network(images)
    assert passes.total == 13
    assert not network._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
def test_torchscript_is_refused(network, images):
    with pytest.raises(ModelError, match="TorchScript"), counted(torch.jit.trace(network, images)):
        pass


def test_a_limit_stops_a_method(network, images):
    with counted(network) as passes:
        passes.start("slow", 10)
        network(images)
        with pytest.raises(TooExpensive, match="slow needs more than 10 forward passes"):
            network(images)
        passes.close("selectivity")
        passes.start("next")
        network(images)
    assert passes.stopped == {"slow": 10}
    assert passes.blocks == {("slow", "selectivity"): 6}
    assert passes.total == 12


def test_the_blocks_of_a_round_sum_to_its_passes(network, images):
    request = plan(network, images, None, ["gradient", "integrated_gradients"], ["selectivity", "sensitivity_n"])
    with counted(network) as passes:
        state = Race(request, passes, 10**6, lambda _: None, ["gradient", "integrated_gradients"])
        state.measure(4, request.metrics)
    labels = ["selectivity", "sensitivity_n"]
    prices = {name: sum(state.prices[name, label] for label in labels) for name in request.analyzers}
    # the constancy check of the last method belongs to none
    assert 0 <= passes.total - 4 * sum(prices.values()) <= 5 * 64
    assert prices["random"] > 7 * 50  # the first control pays for the sets of sensitivity-n
    assert prices["integrated_gradients"] > prices["gradient"]
    assert state.price(["gradient"], labels) == sum(prices[name] for name in ("gradient", *CONTROLS))


def test_joined_rounds_equal_one_evaluation(network, images):
    names, metrics = ["gradient", "lrp.epsilon"], ["selectivity", "insertion"]
    whole = plan(network, images, None, names, metrics)
    parts = [run(replace(whole, images=part)) for part in images.split([2, 4])]
    one, several = run(whole), joined(parts, names)
    assert several.images == 6
    assert several.methods == one.methods
    for key, scores in one.scores.items():
        torch.testing.assert_close(torch.tensor(several.scores[key].values), torch.tensor(scores.values))
        for name, curve in scores.curves.items():
            np.testing.assert_allclose(several.scores[key].curves[name], curve, atol=1e-5)
    fewer = joined(
        [parts[0], run(replace(whole, images=images[2:4], metrics={"insertion": METRICS["insertion"]()}))], names
    )
    assert fewer.scores["gradient", "selectivity"].values[2:] == [None, None]
    assert len(fewer.rows) == 2 * 6


@pytest.mark.parametrize("seed", range(3))
def test_the_classes_take_turns(seed):
    classes = torch.tensor([3] * 10 + [1] * 4 + [7] * 2)
    order = balanced(classes, seed)
    assert sorted(order.tolist()) == list(range(16))
    turns = classes[order].tolist()
    assert [sorted(turns[start : start + 3]) for start in (0, 3)] == [[1, 3, 7]] * 2
    assert sorted(turns[6:10]) == [1, 1, 3, 3]
    assert torch.equal(order, balanced(classes, seed))
    assert not torch.equal(order, balanced(classes, seed + 10))


# --- whole races, on drawn values -------------------------------------------------------------------------------


def drawn_race(monkeypatch, means, seed, images=128, price=50):
    """Race on values around `means` instead of measurements; each method costs `price` passes per image."""
    names = ["gradient", "deeplift", "lrp.epsilon", "smoothgrad"][: len(means)]
    values = drawn(dict(zip(names, means, strict=True)), images, seed, controls=-3.0)
    model = nn.Flatten()
    places = torch.arange(float(images)).view(-1, 1, 1, 1) / images
    request = plan(model, places.expand(-1, 1, 2, 2), None, names, list(METRICS_USED), seed=seed)
    passes = Passes()

    def draw(part, record):
        chosen = (part.images[:, 0, 0, 0] * images).round().long().numpy()
        blocks = [(method, metric) for method in part.analyzers for metric in part.metrics]
        for done, _ in enumerate(blocks, 1):
            passes.add(price * len(chosen))
            record.progress(done, "")
        scores = {key: Scores(values[key][chosen].tolist(), {}, {}) for key in blocks}
        return Evaluation((*names, *CONTROLS), ABOUT, scores, len(chosen), seed, same_map=())

    monkeypatch.setattr("pellucid.evaluation._race.run", draw)
    return lambda budget: race(request, passes, budget), passes


@pytest.mark.parametrize("seed", range(8))
def test_the_best_method_stays_to_the_end(monkeypatch, seed):
    run_race, passes = drawn_race(monkeypatch, (0.0, 0.8, 0.5, -1.0), seed)
    finish = run_race(10**6)
    assert finish.ended in {"decided", "images"}
    remaining = [one.method for one in finish.ranking if not one.is_dropped]
    assert "deeplift" in remaining
    assert "smoothgrad" not in remaining
    assert sorted(one.method for one in finish.ranking) == ["deeplift", "gradient", "lrp.epsilon", "smoothgrad"]
    # dropping saves passes: all methods on all images would cost this much
    assert passes.total < 128 * 50 * 2 * (4 + len(CONTROLS))


def test_equal_methods_use_all_images_and_stay(monkeypatch):
    run_race, _ = drawn_race(monkeypatch, (0.5, 0.5, 0.5), 1)
    finish = run_race(10**6)
    assert finish.ended == "images"
    assert finish.evaluation.images == 128
    assert not any(one.is_dropped for one in finish.ranking)


@pytest.mark.parametrize("budget", [15_000, 20_000, 40_000])
def test_a_race_ends_within_its_budget(monkeypatch, budget):
    run_race, passes = drawn_race(monkeypatch, (0.5, 0.5, 0.5), 1)
    finish = run_race(budget)
    assert finish.ended == "budget"
    assert passes.total <= budget
    assert finish.evaluation.images < 128
    # rounds double; the last one uses what is left
    assert passes.total > 0.6 * budget


# --- the result -------------------------------------------------------------------------------------------------


def test_methods_that_rank_better_but_lose_to_a_control_are_named():
    values = drawn({"gradient": (9.0, -0.5), "deeplift": (3.0, 3.0)}, 40)
    values["gradient", "insertion"] = values["deeplift", "insertion"] + 0.2
    values["sobel", "insertion"] = values["gradient", "insertion"] + np.where(np.arange(40) % 2, 9.0, -8.9)
    # the edges vary widely, so that the other method is better on average only
    values["deeplift", "insertion"] = values["gradient", "insertion"] + np.where(np.arange(40) % 4, -0.2, 1.4)
    evaluation = made(values, 40)
    ranking = tuple(ranked(evaluation, ["gradient", "deeplift"], METRICS_USED, 0))
    result = concluded(Finish(evaluation, ranking, {"occlusion": "It is slow."}, "images"), {}, 1000, 2000)
    assert result.method == "deeplift" == evaluation.recommendation.method
    assert ranking[0].method == "gradient"
    assert "gradient ranks better, but it is worse than a control in insertion." in result.reason
    assert "gradient" not in result.tied
    assert "worse than a control in insertion" in repr(result)
    assert "occlusion: It is slow." in repr(result)


@pytest.mark.parametrize(("images", "few"), [(8, True), (40, False)])
def test_methods_no_better_than_the_controls_are_not_recommended(images, few):
    evaluation = made(drawn({"gradient": 0.0, "deeplift": 0.0}, images), images)
    ranking = tuple(ranked(evaluation, ["gradient", "deeplift"], METRICS_USED, 0))
    result = concluded(Finish(evaluation, ranking, {}, "images"), {}, 1000, 2000)
    assert result.method is None
    assert result.tied == ()
    assert result.reason.startswith("No method is recommended.")
    assert ("Only 8 images could be measured" in result.reason) == few


def test_a_race_without_a_method_says_why():
    evaluation = made(drawn({}, 16), 16)
    result = concluded(Finish(evaluation, (), {"gradient": "It does not apply."}, "decided"), {}, 1000, 2000)
    assert result.method is None
    assert result.reason == (
        "No method is recommended: each one was excluded, for example gradient: It does not apply."
    )
