"""Calibration section."""

import json

import numpy as np
import pytest
import torch

import browser
from offline_page import faults, opened
from pellucid.diagnostics import calibration as measure
from pellucid.diagnostics import risk_coverage
from pellucid.report import Material, write_report
from pellucid.report._verdict import verdict
from pellucid.report.sections.calibration import MOST_CLASSES, calibration
from pretended_run import keep

PHONE = {"width": 390, "height": 800}


def numbers(images=200, classes=3, scale=2.0, **temperature):
    """The numbers of the hook for predictions that are overconfident for a scale above 1."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=draw, dtype=torch.float64)
    labels = logits.softmax(1).multinomial(1, generator=draw)[:, 0]
    predicted, scaled = (measure(one.softmax(1), labels, draws=99) for one in (scale * logits, logits))
    confidence, predictions = (scale * logits).softmax(1).max(1)
    curve = risk_coverage(confidence, predictions == labels)
    fitted = {
        "values": [scale],
        "low": [scale - 0.2],
        "high": [scale + 0.3],
        "images": [100],
        "source": "validation",
        "note": None,
    }
    return {
        "predicted": {**predicted.to_dict(), "loss": 0.9},
        "scaled": {**scaled.to_dict(), "loss": 0.8},
        "temperature": fitted | temperature,
        "risk_coverage": {"aurc": curve.aurc, "excess_aurc": curve.excess_aurc, **curve.curve()},
    }  # fmt: skip


def test_section_has_the_numbers_of_each_epoch(store):
    record = numbers()
    for epoch in (0, 2):
        keep(store, "calibration", epoch, numbers=record)
    section = calibration(Material(store))
    assert list(section.data["epochs"]) == [0, 2]
    one = section.data["epochs"][2]
    assert one["predicted"]["ece"] == record["predicted"]["ece"]
    assert one["scaled"]["brier"] == record["scaled"]["brier"]
    np.testing.assert_array_equal(one["predicted"]["bins"]["counts"], record["predicted"]["bins"]["counts"])
    assert np.isnan(one["predicted"]["bins"]["accuracy"][0])  # an empty bin
    assert one["curve"]["risk"].tolist() == record["risk_coverage"]["risk"]
    assert sorted(one["classes"]["names"]) == sorted(("cat", "dog", "a bird with a very long name"))
    assert (np.diff(one["classes"]["p"]) >= 0).all()
    assert section.notes == ()


def test_many_classes_are_limited_to_the_most_significant(store):
    keep(store, "calibration", 2, numbers=numbers(classes=60))
    section = calibration(Material(store))
    one = section.data["epochs"][2]
    assert (len(one["classes"]["p"]), one["class_count"]) == (MOST_CLASSES, 60)
    assert section.notes == ("The table shows 50 of 60 classes, those with the lowest p-values.",)


def test_damaged_numbers_are_noted(store):
    record = numbers()
    keep(store, "calibration", 0, numbers=record)
    record["predicted"]["bins"]["counts"].pop()
    keep(store, "calibration", 1, numbers=record)
    keep(store, "calibration", 2, numbers={"predicted": None})
    material = Material(store)
    assert list(calibration(material).data["epochs"]) == [0]
    assert [damage.split()[0] for damage in material.damages] == [
        "plots/calibration/epoch_001.json",
        "plots/calibration/epoch_002.json",
    ]


def test_a_run_without_the_hook_has_no_section(store):
    assert calibration(Material(store)) is None
    keep(store, "calibration", 2, name="left_out", numbers={"reason": "NaN"})
    assert calibration(Material(store)) is None


def sentences(store):
    return [one for one in verdict(Material(store)) if one.section == "calibration"]


def predicted_arrays(count, share):
    labels = np.zeros(count, np.int32)
    predictions = np.where(np.arange(count) < share * count, 0, 1)
    return {"labels": labels, "predictions": predictions, "confidences": np.full(count, 0.9)}


def test_the_verdict_names_the_temperature_that_lowers_the_error(store):
    keep(store, "confusion_matrix", 1, name="predictions", arrays=predicted_arrays(400, 0.7))
    record = numbers()
    keep(store, "calibration", 1, numbers=record)
    (sentence,) = sentences(store)
    assert sentence.text.startswith("Overconfident by 20.0 points (95% interval ")
    before, after = record["predicted"]["ece"], record["scaled"]["ece"]
    assert sentence.text.endswith(f"); a temperature of 2 lowers the ECE from {before:.2%} to {after:.2%}.")


@pytest.mark.parametrize(
    "record",
    [
        numbers() | {"scaled": None},
        numbers(low=[0.9]),  # no different from 1
        numbers(high=[None], low=[0.5]),
        numbers(values=[2.0, 2.1], low=[1.8, 1.8], high=[2.3, 2.3], source="halves"),
    ],
)
def test_the_verdict_without_a_temperature(record, store):
    keep(store, "confusion_matrix", 1, name="predictions", arrays=predicted_arrays(400, 0.7))
    keep(store, "calibration", 1, numbers=record)
    (sentence,) = sentences(store)
    assert sentence.text.endswith(").")


@pytest.mark.parametrize(("p", "count"), [(0.01, 1), (0.011, 0), (None, 0)])
def test_the_verdict_names_a_miscalibration_that_cancels_on_average(p, count, store):
    keep(store, "confusion_matrix", 1, name="predictions", arrays=predicted_arrays(400, 0.9))
    record = numbers()
    record["predicted"]["p"] = p
    keep(store, "calibration", 1, numbers=record)
    found = sentences(store)
    assert len(found) == count
    assert all(one.text.startswith("Miscalibrated, although not on average: ECE ") for one in found)


def test_the_verdict_says_nothing_of_an_average_that_is_unknown(store):
    record = numbers()
    record["predicted"]["p"] = 0.005
    keep(store, "calibration", 1, numbers=record)  # without the predictions of the hook confusion_matrix
    (sentence,) = sentences(store)
    assert sentence.text.startswith("Miscalibrated: ECE ")


@pytest.mark.slow
def test_section_in_the_browser(store):
    hostile = "<img src=x onerror=alert(1)> a class name that is longer than anybody would expect"
    record = store.read_json("run.json", {})
    record["dataset"]["classes"][0] = hostile
    (store.folder / "run.json").write_text(json.dumps(record))
    keep(store, "calibration", 0, numbers=numbers(scale=1.0) | {"scaled": None})
    keep(store, "calibration", 2, numbers=numbers())
    with (
        browser.chromium("--disable-gpu") as chromium,
        opened(chromium, write_report(store.folder), viewport=PHONE) as page,
    ):
        root = page.locator("#calibration")
        assert root.locator(".scores:not(.by-class) tbody tr").count() == 2
        assert root.locator(".diagram .scaled .mark").count() > 3
        assert hostile in root.locator(".by-class").text_content()
        assert "Temperature 2.00 (95% interval 1.80 to 2.30), fitted to 100 validation images." in root.text_content()
        root.locator("summary").click()
        assert faults(page, "#calibration") == []
        root.locator(".diagram svg").focus()
        page.keyboard.press("End")
        chosen = root.locator(".readout").first.text_content()
        assert chosen.startswith("Confidence 93% to 100%, as predicted: ")
        assert root.locator(".diagram svg").get_attribute("aria-valuetext") == chosen
        page.evaluate("pellucid.choose(0)")
        assert root.locator(".scores:not(.by-class) tbody tr").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
