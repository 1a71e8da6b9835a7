"""The report is updated after every epoch, shows how the run ended, and its failure never ends the run."""

import json

import pytest

from pellucid.cli import main
from pellucid.report import write_report
from pellucid.report._page import render_report
from pellucid.run import hook_runner
from pellucid.training import loop
from pretended_run import write_run

QUICK = (
    "--dataset digits --epochs 2 --limit-train 120 --limit-test 40 --batch-size 32 --hooks confusion_matrix --save out"
).split()


def test_report_is_written_after_every_epoch_and_at_the_end(run_program, tmp_path, monkeypatch, capsys):
    states = []

    def watched(folder):
        content = render_report(folder)
        page = content.decode()
        epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        states.append((epochs, "If the run is no longer active" in page, 'id="status">finished<' in page))
        return content

    monkeypatch.setattr(hook_runner, "render_report", watched)
    assert run_program(*QUICK, "--serial") == 0
    assert states == [
        ([0], True, False),
        ([0, 1], True, False),
        ([0, 1, 2], True, False),
        ([0, 1, 2], False, True),
    ]
    assert "out/report.html" in capsys.readouterr().out
    assert run_program(*QUICK, "--epochs", 1) == 0
    assert len(list((tmp_path / "out" / "previous").glob("*/report.html"))) == 1


def test_failed_summary_is_recorded_and_does_not_stop_the_run(run_program, tmp_path, monkeypatch, capsys):
    def fails(folder):
        raise ZeroDivisionError("no picture today")

    monkeypatch.setattr(hook_runner, "write_summary", fails)
    assert run_program(*QUICK) == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "finished"
    *_, failure = json.loads((tmp_path / "out/manifest.json").read_text())["failures"]
    assert (failure["hook"], failure["epoch"]) == ("summary", 2)
    assert "The summary picture failed at epoch 2: ZeroDivisionError: no picture today" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").is_file()


def test_failed_report_is_recorded_and_does_not_stop_the_run(run_program, tmp_path, monkeypatch, capsys):
    def fails(folder):
        raise ZeroDivisionError("no page today")

    monkeypatch.setattr(hook_runner, "render_report", fails)
    assert run_program(*QUICK) == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "finished"
    failures = json.loads((tmp_path / "out/manifest.json").read_text())["failures"]
    assert [(failure["hook"], failure["epoch"]) for failure in failures] == [
        ("report", 0),
        ("report", 1),
        ("report", 2),
    ]
    assert "no page today" in (tmp_path / "out" / failures[0]["log"]).read_text()
    output = capsys.readouterr().out
    assert "the report failed at epoch 1: ZeroDivisionError: no page today" in output
    assert "The report failed at epoch 2: ZeroDivisionError: no page today" in output
    monkeypatch.undo()
    assert "report, epoch 1: ZeroDivisionError: no page today" in write_report(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (KeyboardInterrupt, "This run was interrupted after epoch 1 of 2"),
        (MemoryError, "This run failed after epoch 1 of 2"),
    ],
)
def test_unfinished_run_says_so(error, note, run_program, tmp_path, monkeypatch):
    step = loop._Trainer._step

    def stop(self, images, labels, progress):
        if progress.epoch == 2:
            raise error
        return step(self, images, labels, progress)

    monkeypatch.setattr(loop._Trainer, "_step", stop)
    assert run_program(*QUICK) in (1, 130)
    assert note in (tmp_path / "out/report.html").read_text()


def test_report_command_regenerates_the_report(tmp_path, capsys):
    write_run(tmp_path / "save")
    assert main(["report", str(tmp_path / "save")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'save' / 'report.html'}\n"
    assert "Training report: cnn on Pets" in (tmp_path / "save" / "report.html").read_text()


@pytest.mark.parametrize("name", ["absent", "."])
def test_report_command_refuses_a_folder_without_a_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", name]) == 2
    reason = "run.json is missing" if name == "." else "there is no such folder"
    assert f"there is no run in {name}: {reason}. Give the folder that" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
