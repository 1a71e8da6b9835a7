"""Learning curves section."""

import json

from pellucid.report import Material
from pellucid.report.sections.curves import curves
from pellucid.storage.store import Store
from pretended_run import metrics_line, run_record


def test_curves_match_the_metrics(store):
    data = curves(Material(store)).data
    assert data["best"] == 1
    for epoch, line in enumerate(data["lines"]):
        expected = metrics_line(epoch)
        assert line == {key: expected[key] for key in line}


def test_invalid_numbers_are_omitted(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record())
    lines = [metrics_line(1) | {"test_loss": "x", "train_loss": float("nan")}, {"epoch": "2"}, metrics_line(0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    material = Material(store)
    data = curves(material).data
    assert [line["epoch"] for line in data["lines"]] == [0, 1]
    assert (data["lines"][1]["test_loss"], data["lines"][1]["train_loss"]) == (None, None)
    assert material.damages == ["metrics.jsonl: 1 of 3 lines have no valid epoch."]


def test_run_without_epochs_has_no_curves(tmp_path):
    Store(tmp_path).begin(run_record())
    assert curves(Material(Store(tmp_path))) is None
