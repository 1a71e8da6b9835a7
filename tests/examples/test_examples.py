"""Tests of the examples, run as a user would."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import required

EXAMPLES = Path(__file__).parents[2] / "examples"


Run = Callable[..., str]


def run_apart(name: str, folder: Path, *flags: str) -> str:
    """Run an example in an interpreter of its own, and return its output; warnings of other libraries are ignored."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), str(folder), *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as `__main__` without starting an interpreter, and return its output; a warning is an error."""

    def run_here(name: str, folder: Path) -> str:
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), str(folder)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_here


@pytest.mark.slow
def test_train_and_utilise_then_load_a_trained_model(run: Run, tmp_path: Path) -> None:
    output = run("train_and_utilise.py", tmp_path)
    error = re.search(r"error ([\d.]+)%", output)
    assert error is not None
    assert float(error[1]) < 5
    output = run("load_a_trained_model.py", tmp_path)
    assert "(256, 2, 4)" in output
    deviation = re.search(r"float64: ([\d.e-]+)", output)
    assert deviation is not None
    assert float(deviation[1]) < 1e-5
    assert (tmp_path / "jacobian.zarr" / "zarr.json").is_file()


@pytest.mark.slow
def test_explain_text(run: Run, tmp_path: Path) -> None:
    output = run("explain_text.py", tmp_path)
    accuracy, residual = (
        re.search(r"([\d.]+)% classified correctly", output),
        re.search(r"certificates: ([\d.e+-]+)", output),
    )
    assert accuracy is not None
    assert residual is not None
    assert float(accuracy[1]) > 95
    assert float(residual[1]) < 1e-4
    assert "the plot is truly not wonderful" in output
    assert ">wonderful</span>" in (tmp_path / "words.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_explain_one_picture(run: Run, tmp_path: Path) -> None:
    output = run("explain_one_picture.py", tmp_path)
    assert "predicted: five" in output
    match = re.search(r"Attributions sum to (\S+), as expected \(residual (\S+), within tolerance\)", output)
    assert match is not None
    assert float(match[1]) > 1
    assert float(match[2]) < 1e-4
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4
    assert page.count("digit.png: predicted as five") >= 4
    assert "for five rather than" in page


@pytest.mark.slow
def test_explain_a_folder(tmp_path: Path) -> None:
    output = run_apart("explain_a_folder.py", tmp_path, "200")
    killed = re.search(r"(\d+) of 25 shards were complete", output)
    assert killed is not None
    assert 12 <= int(killed[1]) < 25
    equal = re.search(r"(\d+) of (\d+) files are equal", output)
    assert equal is not None
    assert int(equal[1]) == int(equal[2]) > 25 * 10


def check_watched(save: Path, least_accuracy: float) -> None:
    """Check the records of a watched training over two epochs that has learned something."""
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["train_loss"] is None for line in lines] == [True, False, False]
    assert lines[-1]["test_accuracy"] > least_accuracy
    assert json.loads((save / "run.json").read_text())["status"] == "finished"
    manifest = json.loads((save / "manifest.json").read_text())
    assert manifest["failures"] == []
    figures = {(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"] if entry["kind"] == "figure"}
    assert figures == {
        (hook, epoch) for hook in ("confusion_matrix", "saliency", "explanations") for epoch in (0, 1, 2)
    }
    assert (save / "report.html").is_file()


@pytest.mark.slow
def test_watch_a_training_loop(run: Run, tmp_path: Path) -> None:
    assert "epoch 2: loss 0." in run("watch_a_training_loop.py", tmp_path)
    check_watched(tmp_path, 0.85)


@pytest.mark.slow
def test_watch_a_compiled_training_loop(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler (install g++)")
    assert "epoch 2: loss 0." in run_apart("watch_a_training_loop.py", tmp_path, "--compile")
    check_watched(tmp_path, 0.85)


@pytest.mark.integrations
def test_lightning_callback(tmp_path: Path) -> None:
    required("lightning")
    run_apart("lightning_callback.py", tmp_path)  # Lightning uses deprecated parts of torch
    check_watched(tmp_path, 0.85)


@pytest.mark.integrations
def test_transformers_callback(tmp_path: Path) -> None:
    required("transformers"), required("accelerate")
    run_apart("transformers_callback.py", tmp_path)
    check_watched(tmp_path / "pellucid", 0.25)
