"""A save folder written by the version of November 2026, interrupted in its second epoch, still opens and resumes."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.config import ServeConfig
from pellucid.report import write_report
from pellucid.run.serving import ServedPage, load_live_run
from pellucid.run.serving_maps import Job
from pellucid.run.serving_request import read_request
from pellucid.storage.runs import load_data_of

OLD = Path(__file__).parent / "old_run"


def tiny(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels * 49, classes))


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old run, with the user's module that built its model."""
    module = ModuleType("old_model")
    module.tiny = tiny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "old_model", module)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(OLD, tmp_path / "save"))


def test_run_and_its_data_load(save: Path) -> None:
    run = pellucid.load_run(save, trust=True)
    data = load_data_of(save, run)  # raises if the checksum of the data is not the recorded one
    record = json.loads((save / "run.json").read_text())
    assert [line["epoch"] for line in run.metrics] == [0, 1]
    correct = run.model(data.test.floats()).argmax(1) == data.test.labels
    best = max((line for line in run.metrics if line["best"]), key=lambda line: line["epoch"])
    assert correct.double().mean() == pytest.approx(best["test_accuracy"])
    assert data.sha256 == record["dataset"]["sha256"]


def test_run_is_compared(save: Path) -> None:
    comparison = pellucid.compare([save, f"{save}@1"], images=4, methods="gradient", trust=True)
    assert comparison.pairs[0].accuracy.images == len(comparison.labels)
    assert comparison.accuracy(0) == pytest.approx(
        comparison.models[0].metrics[comparison.models[0].epoch]["test_accuracy"]
    )


def test_run_is_served(save: Path) -> None:
    live = load_live_run(ServeConfig(save, trust=True))
    assert live.data is not None
    answer = live.map(read_request(b'{"method": "lrp.epsilon", "index": 3}'), Job(lambda: False))
    assert answer["image"]["prediction"] == int(live.run.model(live.data.test.floats([3])).argmax())
    assert answer["sums"]["holds"]
    assert b'id="live"' in ServedPage(save, live)()
    expected = (live.run.model(live.data.test.floats()).argmax(1) != live.data.test.labels).nonzero().flatten()
    assert live.misclassified(Job(lambda: False)) == expected.tolist()


def test_report_is_written_again(save: Path) -> None:
    page = write_report(save)
    assert "Confusion matrix" in page.read_text()


def test_run_resumes(save: Path) -> None:
    before = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert main(["run", "--resume", "--trust", "--save", str(save)]) == 0
    after = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert after[0] == before[0]
    after[1].pop("most_common_confusion")  # epoch 1 is finished again, and only newer versions record this
    assert after[1].keys() == before[1].keys()
    for key, value in before[1].items():  # another kind of processor rounds differently
        assert after[1][key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key
    assert after[2]["epoch"] == 2
    assert json.loads((save / "run.json").read_text())["status"] == "finished"
    manifest = json.loads((save / "manifest.json").read_text())
    assert {entry["epoch"] for entry in manifest["artifacts"]} == {0, 1, 2}
    assert manifest["failures"] == []


def test_only_new_epochs_are_recorded(save: Path) -> None:
    assert pellucid.load_run(save, trust=True).recorded is None
    record = json.loads((save / "run.json").read_text())
    record["config"]["hooks"] = "dynamics"
    (save / "run.json").write_text(json.dumps(record))
    assert main(["run", "--resume", "--trust", "--save", str(save)]) == 0
    recorded = pellucid.load_run(save, trust=True).recorded
    assert recorded is not None
    assert recorded.epochs == (2,)
    entry = json.loads((save / "manifest.json").read_text())["artifacts"][-1]
    assert (entry["hook"], entry["name"]) == ("dynamics", "left_out")
    assert "not recorded in epoch 1; runs of earlier versions" in entry["caption"]
