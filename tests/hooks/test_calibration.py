"""Calibration of the test images."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pellucid.diagnostics import calibration, cross_fit_temperature, fit_temperature, risk_coverage
from pellucid.hooks.calibration import CalibrationOfTestImages


def noisy(scene, scale=1.0):
    """Return the scene with random logits that often favor the label."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(len(scene.test), len(scene.classes), generator=draw)
    logits[torch.arange(len(logits)), scene.test.labels] += 1.5
    return replace(scene, logits=scale * logits)


def run(scene):
    (artifact,) = CalibrationOfTestImages().run(scene)
    return artifact


def test_numbers_are_those_of_the_test_images(make_scene):
    scene = noisy(make_scene(count=90))
    artifact, labels = run(scene), scene.test.labels
    expected = calibration(scene.logits.double().softmax(1), labels, draws=200)
    numbers = artifact.numbers["predicted"]
    assert numbers == {**expected.to_dict(), "loss": pytest.approx(F.cross_entropy(scene.logits, labels).item())}
    confidence, predictions = scene.logits.double().softmax(1).max(1)
    curve = risk_coverage(confidence, predictions == labels)
    assert artifact.numbers["risk_coverage"] == {
        "aurc": curve.aurc, "excess_aurc": curve.excess_aurc, **curve.curve()
    }  # fmt: skip
    assert artifact.scalars["ece"] == expected.ece
    assert f"ECE {expected.ece:.1%}" in artifact.caption
    assert len(artifact.figure.axes) == 3
    json.dumps(artifact.numbers, allow_nan=False)


def test_temperature_is_fitted_to_the_validation_images(make_scene):
    scene = noisy(make_scene(count=90), scale=3.0)
    validation = noisy(make_scene(count=60), scale=3.0)
    scene = replace(scene, validation=validation.test, validation_logits=validation.logits)
    artifact, fitted = run(scene), fit_temperature(validation.logits, validation.test.labels)
    assert artifact.numbers["temperature"] == {
        "values": [fitted.value], "low": [fitted.low], "high": [fitted.high], "images": [60], "source": "validation",
        "note": None,
    }  # fmt: skip
    scaled = scene.logits.double() / fitted.value
    assert artifact.numbers["scaled"]["ece"] == calibration(scaled.softmax(1), scene.test.labels, draws=200).ece
    assert artifact.numbers["scaled"]["loss"] == pytest.approx(F.cross_entropy(scaled, scene.test.labels).item())
    assert "fitted to 60 validation images" in artifact.caption
    assert artifact.scalars["temperature"] == fitted.value


def test_without_validation_images_each_half_is_scaled_by_the_other(make_scene):
    scene = noisy(make_scene(count=90))
    artifact, both = run(scene), cross_fit_temperature(scene.logits, scene.test.labels)
    assert artifact.numbers["temperature"]["values"] == [one.value for one in both.temperatures]
    assert artifact.numbers["temperature"]["source"] == "halves"
    scaled = both.apply(scene.logits.double())
    assert artifact.numbers["scaled"]["ece"] == calibration(scaled.softmax(1), scene.test.labels, draws=200).ece
    assert "each fitted to one half of the test images and applied to the other" in artifact.caption
    assert "temperature" not in artifact.scalars


@pytest.mark.parametrize("count", [1, 59])
def test_few_images_have_no_temperature(make_scene, count):
    artifact = run(make_scene(count=count))
    assert (artifact.numbers["scaled"], artifact.numbers["temperature"]["values"]) == (None, [])
    assert "too few to fit a temperature" in artifact.caption


def test_separable_validation_images_change_nothing(make_scene):
    scene = noisy(make_scene(count=90))
    labels = scene.test.labels
    artifact = run(replace(scene, validation=scene.test, validation_logits=5 * F.one_hot(labels, 4).float()))
    assert artifact.numbers["scaled"] is None
    assert "No temperature: almost no image is misclassified" in artifact.caption
    assert "temperature" not in artifact.scalars


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_left_out(make_scene, value):
    scene = make_scene(count=20)
    scene.logits[3, 1] = value
    artifact = run(scene)
    assert artifact.name == "left_out"
    assert "the logits of 1 of 20 test images are not finite" in artifact.numbers["reason"]


def test_two_and_many_classes(make_scene):
    scene = make_scene(count=100)
    for classes in (2, 1000):
        draw = torch.Generator().manual_seed(0)
        logits = torch.randn(100, classes, generator=draw)
        test = replace(scene.test, labels=torch.randint(classes, (100,), generator=draw))
        artifact = run(replace(scene, test=test, logits=logits, classes=tuple(map(str, range(classes)))))
        assert len(artifact.numbers["predicted"]["classes"]["ece"]) == classes


@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_all_right_and_all_wrong_predictions(make_scene, kind):
    scene = make_scene(count=80)
    right = 4 * F.one_hot(scene.test.labels, 4).float()
    artifact = run(replace(scene, logits=right if kind == "right" else -right))
    assert artifact.numbers["predicted"]["accuracy"] == (1 if kind == "right" else 0)
    assert artifact.numbers["scaled"] is None
