"""Tests of the examples, run as a user would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_train_and_utilise_then_load_a_trained_model(tmp_path: Path) -> None:
    output = run("train_and_utilise.py", tmp_path)
    error = re.search(r"error ([\d.]+)%", output)
    assert error is not None
    assert float(error[1]) < 5
    output = run("load_a_trained_model.py", tmp_path)
    assert "(256, 2, 4)" in output
    deviation = re.search(r"float64: ([\d.e-]+)", output)
    assert deviation is not None
    assert float(deviation[1]) < 1e-5
    assert (tmp_path / "jacobian.zarr" / ".zarray").is_file()


@pytest.mark.slow
def test_explain_text(tmp_path: Path) -> None:
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
