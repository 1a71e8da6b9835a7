"""The examples run as a user would run them, one after the other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.slow
def test_train_and_utilise_then_load_a_trained_model(tmp_path: Path) -> None:
    told = run("train_and_utilise.py", tmp_path)
    share = re.search(r"within ([\d.]+)% of the true one", told)
    assert share is not None
    assert float(share[1]) < 5
    told = run("load_a_trained_model.py", tmp_path)
    assert "(256, 2, 4)" in told
    deviation = re.search(r"float64: ([\d.e-]+)", told)
    assert deviation is not None
    assert float(deviation[1]) < 1e-5
    assert (tmp_path / "jacobian.zarr" / ".zarray").is_file()


@pytest.mark.slow
def test_explain_text(tmp_path: Path) -> None:
    told = run("explain_text.py", tmp_path)
    accuracy, residual = re.search(r"([\d.]+)% told right", told), re.search(r"certificates: ([\d.e+-]+)", told)
    assert accuracy is not None
    assert residual is not None
    assert float(accuracy[1]) > 95
    assert float(residual[1]) < 1e-4
    assert "the plot is truly not wonderful" in told
    assert ">wonderful</span>" in (tmp_path / "words.html").read_text(encoding="utf-8")
