"""Tests of the trackers' processes with a small stand-in for trackio; the real libraries are in tests/integrations."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.core.errors import ConfigError, UnknownName
from pellucid.storage.loggers import Logs, _names, _sender, check_loggers, open_logs

STAND_IN = """
import json, os, time

def note(**entry):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(entry) + "\\n")

class Image:
    def __init__(self, value, caption):
        self.pixel, self.caption = value.getpixel((1, 0)), caption

class Artifact:
    def __init__(self, name, type, metadata): self.files = []
    def add_file(self, path): self.files.append(path.read_text())

class Run:
    def __init__(self, name): self.name = name
    def log(self, values, step):
        if os.environ.get("STAND_IN") == "hangs": time.sleep(600)
        if os.environ.get("STAND_IN") == "dies" and step == 1: os._exit(3)
        if os.environ.get("STAND_IN") == "refuses pictures" and "saliency" in values:
            raise ValueError("no pictures\\nplease")
        note(values={key: value if isinstance(value, float) else [value.pixel, value.caption]
                     for key, value in values.items()}, step=step)
    def log_artifact(self, artifact): note(files=artifact.files)
    def finish(self): note(end=True)

def init(**options):
    print("hello from the tracker")
    if os.environ.get("STAND_IN") == "refuses": raise ConnectionError("nobody is there")
    note(name=options["name"], resume=options["resume"], config=options["config"], folder=os.environ["TRACKIO_DIR"])
    return Run(options["name"])
"""
RECORD = {
    "config": {"epochs": 2, "mirror": ["a"]},
    "seed": 5,
    "dataset": {"name": "digits"},
    "model": {"name": "cnn"},
    "timing": {"started": "2026-01-31T12:00:00Z"},
}


class StandIn:
    """The stand-in for trackio, and what it was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "library").mkdir()
        (folder / "library" / "trackio.py").write_text(STAND_IN)
        self.log = folder / "calls.jsonl"
        monkeypatch.syspath_prepend(folder / "library")
        monkeypatch.setenv("STAND_IN_LOG", str(self.log))
        monkeypatch.delenv("TRACKIO_DIR", raising=False)

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def png() -> bytes:
    content = io.BytesIO()
    Image.frombytes("RGB", (2, 1), bytes([1, 2, 3, 7, 8, 9])).save(content, "PNG")
    return content.getvalue()


def line(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": None, "test_accuracy": 0.5 + epoch / 10, "learning_rate": 0.1}


def log_two_epochs(logs: Logs) -> None:
    for epoch in (0, 1):
        logs.metrics(line(epoch))
        logs.scalars({"tsne/trust": 0.25}, epoch)
        logs.picture("saliency", png(), epoch)


def test_everything_reaches_the_tracker_in_order(tmp_path: Path, stand_in: StandIn) -> None:
    save = tmp_path / "save"
    logs = open_logs(save, ["trackio"], RECORD)
    log_two_epochs(logs)
    (save / "report.html").write_text("the report")
    logs.close("finished")
    begin, *values, report, end = stand_in.calls()
    assert begin["name"].startswith("digits cnn 2026-01-31T12:00:00Z ")
    assert begin["config"] | {"epochs": 2, "mirror": "['a']", "seed": 5, "dataset_name": "digits"} == begin["config"]
    assert Path(begin["folder"]) == save / "logs" / "trackio"
    assert [(call["values"], call["step"]) for call in values] == [
        (given, epoch)
        for epoch in (0, 1)
        for given in (
            {"test/accuracy": 0.5 + epoch / 10, "training/learning_rate": 0.1},
            {"tsne/trust": 0.25},
            {"saliency": [[7, 8, 9], f"saliency, epoch {epoch}"]},
        )
    ]
    assert report["files"] == ["the report"]
    assert end == {"end": True}
    kept = {path.name for path in (save / "logs" / "trackio").iterdir()}
    assert kept == {"identity.txt", "output.txt"}  # no messages are left
    assert "hello from the tracker" in (save / "logs" / "trackio" / "output.txt").read_text()


def test_a_resumed_run_continues_under_its_name(tmp_path: Path, stand_in: StandIn) -> None:
    open_logs(tmp_path / "save", ["trackio"], RECORD).close("interrupted")
    logs = open_logs(tmp_path / "save", ["trackio"], RECORD, start_epoch=1)
    logs.add_earlier([line(0)])  # the tracker has it already
    logs.restore(line(1))  # and this, too, but TensorBoard has discarded it
    logs.metrics(line(2))
    logs.close("finished")
    begins = [call for call in stand_in.calls() if "name" in call]
    assert len({begin["name"] for begin in begins}) == 1
    assert [begin["resume"] for begin in begins] == ["allow", "allow"]
    assert [call["step"] for call in stand_in.calls() if "values" in call] == [2]


def test_a_tracker_added_on_resume_receives_earlier_scores(tmp_path: Path, stand_in: StandIn) -> None:
    open_logs(tmp_path / "save", [], RECORD).close("interrupted")
    logs = open_logs(tmp_path / "save", ["trackio"], RECORD, start_epoch=1)
    logs.add_earlier([line(0), line(1)])
    logs.restore(line(1))
    logs.close("finished")
    values = [(call["values"], call["step"]) for call in stand_in.calls() if "values" in call]
    rate = {"training/learning_rate": 0.1}
    assert values == [({"test/accuracy": 0.5} | rate, 0), ({"test/accuracy": 0.6} | rate, 1)]


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("refuses", "open: ConnectionError: nobody is there (see "),
        ("refuses pictures", "picture: ValueError: no pictures please (see "),
        ("dies", "its process ended with exit code 3 (see "),
    ],
)
def test_a_failure_is_reported_once_and_nothing_is_raised(
    tmp_path: Path,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    behavior: str,
    reason: str,
) -> None:
    monkeypatch.setenv("STAND_IN", behavior)
    logs = open_logs(tmp_path / "save", ["trackio"], RECORD)
    log_two_epochs(logs)
    logs.close("finished")
    output = capsys.readouterr().out
    assert output.count("logging to trackio failed: ") == 1
    assert reason in output
    if behavior == "refuses pictures":  # the rest arrives
        assert [call["step"] for call in stand_in.calls() if "test/accuracy" in call.get("values", {})] == [0, 1]
        assert "Traceback" in (tmp_path / "save" / "logs" / "trackio" / "failure.txt").read_text()
    assert list((tmp_path / "save" / "logs").glob("events*"))  # TensorBoard's log


def test_a_full_disk_is_reported_once(tmp_path: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    logs = open_logs(tmp_path / "save", ["trackio"], RECORD)
    sender = logs._trackers[0]
    assert sender._messages is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sender._messages.fileno())  # every write fails from now on
    os.close(full)
    logs.metrics(line(0))
    logs.metrics(line(1))
    logs.close("finished")
    assert capsys.readouterr().out.count("No space left on device; the run continues") == 1


def test_a_tracker_that_hangs_holds_up_nothing(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "hangs")
    monkeypatch.setattr(_sender, "SECONDS_TO_FINISH", 0.1)
    logs = open_logs(tmp_path / "save", ["trackio"], RECORD)
    log_two_epochs(logs)
    logs.close("finished")
    assert "trackio is not finished yet and continues in the background" in capsys.readouterr().out
    process = _sender._in_background.pop()
    assert process.poll() is None
    process.kill()
    process.wait()


def test_the_tracker_ends_its_run_if_the_training_is_killed(tmp_path: Path, stand_in: StandIn) -> None:
    program = (
        "import json, os, signal, sys; from pathlib import Path; from pellucid.storage.loggers import open_logs\n"
        "save = Path(sys.argv[1]); logs = open_logs(save, ['trackio'], {})\n"
        "logs.scalars({'loss': 0.5}, 3); (save / 'report.html').write_text('so far')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "save")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while {"end": True} not in stand_in.calls() and time.monotonic() < deadline:
        time.sleep(0.05)
    _, values, report, end = stand_in.calls()
    assert values == {"values": {"loss": 0.5}, "step": 3}
    assert report["files"] == ["so far"]
    assert end == {"end": True}


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="mlflow"):
        check_loggers(["mlfow"])
    # a folder called wandb, which the library leaves in the working directory, is no installed package
    for spec in (None, ModuleSpec("wandb", None)):
        monkeypatch.setattr(_names, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ConfigError, match=r"pip install 'pellucid\[integrations\]'"):
            check_loggers("wandb")


def test_names_are_given_as_text_or_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_names, "find_spec", lambda name: ModuleSpec(name, None, origin="here"))
    assert check_loggers("wandb, mlflow,wandb") == check_loggers(["wandb", "mlflow"]) == ("wandb", "mlflow")


def test_a_watched_training_is_logged(tmp_path: Path, stand_in: StandIn) -> None:
    images, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    options = {"hooks": "confusion_matrix", "budget": "small", "log_to": "trackio"}
    with pellucid.watch(model, (images, labels), save=tmp_path / "save", **options) as watcher:
        watcher.epoch(train_loss=0.5, grad_norm=2.0)
    begin, *calls, report, end = stand_in.calls()
    assert begin["config"]["kind"] == "watch"
    values = {(name, call["step"]): value for call in calls for name, value in call["values"].items()}
    accuracy = float((model(images).argmax(1) == labels).float().mean())
    expected = {("train/loss", 1): 0.5, ("grad_norm", 1): 2.0, ("test/accuracy", 1): pytest.approx(accuracy)}
    assert values | expected == values
    assert {epoch for name, epoch in values if name == "confusion_matrix"} == {0, 1}
    assert report["files"] == [(tmp_path / "save" / "report.html").read_text()]
    assert end == {"end": True}


def test_a_mistyped_tracker_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dataset", "digits", "--save", str(tmp_path / "save"), "--log-to", "trackio,mlfow"]) == 2
    assert "there is no logger 'mlfow'" in capsys.readouterr().err
    assert not (tmp_path / "save").exists()
