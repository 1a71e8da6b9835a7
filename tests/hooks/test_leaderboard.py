import pytest

import pellucid
from pellucid.evaluation import CONTROLS, DEFAULT_METHODS
from pellucid.hooks._methods import DEFAULT_METHODS as SHOWN
from pellucid.hooks.leaderboard import Leaderboard


def test_default_methods_are_evaluated():
    assert DEFAULT_METHODS == SHOWN
    assert Leaderboard.when == "end"


def test_numbers_match_evaluate(make_scene):
    scene = make_scene(methods=("gradient", "lrp.epsilon"))
    metrics = ("selectivity", "completeness")
    (artifact,) = Leaderboard(images=20, metrics=metrics).run(scene)
    images, targets = scene.test.floats(slice(0, 60, 3)), scene.logits[::3].argmax(1)
    expected = pellucid.evaluate(scene.model, images, targets, ["gradient", "lrp.epsilon"], metrics)
    rows = artifact.numbers["rows"]
    assert [row["method"] for row in rows] == 2 * ["gradient", "lrp.epsilon", *CONTROLS]
    assert [row["value"] for row in rows] == pytest.approx([row.value for row in expected.rows], rel=1e-4, abs=1e-6)
    assert expected.best("completeness") in artifact.caption


def test_figure_marks_the_best_and_those_beaten_by_a_control(make_scene):
    (artifact,) = Leaderboard(images=20, metrics=("completeness",)).run(make_scene(methods=("gradient", "deeplift")))
    texts = {text.get_text(): text for text in artifact.figure.texts}
    assert texts["0.000"].get_weight() == "bold"
    assert texts["random"].get_style() == "italic"


def test_methods_that_learn_from_data_are_fitted_and_controls_appear_once(make_scene):
    scene = make_scene(methods=("gradient", "random", "pattern.net", "expected_gradients"))
    (artifact,) = Leaderboard(images=6, metrics=("sparseness",)).run(scene)
    measured = [row["method"] for row in artifact.numbers["rows"]]
    assert measured == ["gradient", "pattern.net", "expected_gradients", *CONTROLS]
