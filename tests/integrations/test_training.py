"""The parts of the callbacks that need no other library."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from learnable import record_of

from pellucid.core.errors import ConfigError
from pellucid.integrations._metrics import renamed
from pellucid.integrations._training import Training

BROKEN_OFF = """
import sys, torch
from pellucid.integrations._training import Training
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
data = (torch.rand(8, 1, 4, 4), torch.arange(8) % 2)
training = Training(None, {"save": sys.argv[1], "hooks": "confusion_matrix", "budget": "small"})
training.start(model, data, 0)
training.epoch(1, {"val_acc": 0.5})
raise RuntimeError("the trainer tells nobody")
"""


def test_a_training_without_an_end_is_recorded_when_the_process_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN_OFF, str(tmp_path / "save")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.endswith("RuntimeError: the trainer tells nobody\n")
    assert record_of(tmp_path / "save")["status"] == "interrupted"
    assert "interrupted" in (tmp_path / "save" / "report.html").read_text()


def test_a_training_that_broke_off_in_this_process_makes_way_for_the_next(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    data = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    first, second = (Training(None, {"save": tmp_path / "save", "hooks": "none"}) for _ in range(2))
    first.start(model, data, 0)
    second.start(model, data, 0)  # as a notebook cell that runs again
    first.epoch(1, {})  # does nothing
    second.epoch(1, {"eval_f1": 0.5, "eval_f1_per_class": [0.4, 0.6], "eval_loss": None, "eval_note": "1"})
    [line] = [json.loads(line) for line in (tmp_path / "save" / "metrics.jsonl").read_text().splitlines()[1:]]
    assert line["given"] == {"eval_f1": 0.5}
    second.end("finished")
    [moved] = (tmp_path / "save" / "previous").iterdir()
    assert (record_of(moved)["status"], record_of(tmp_path / "save")["status"]) == ("failed", "finished")


def test_importing_leaves_the_random_state_of_python_unchanged() -> None:
    program = "import random; before = random.getstate(); import pellucid.integrations._training; import pellucid; "
    program += "pellucid.explain; assert random.getstate() == before"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_a_missing_library_is_one_clear_error(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ModuleNotFoundError
    monkeypatch.delitem(sys.modules, f"pellucid.integrations.{library}", raising=False)
    with pytest.raises(ConfigError, match=rf"needs {library}: .*pip install 'pellucid\[integrations\]'"):
        import_module(f"pellucid.integrations.{library}")


def test_neither_library_is_imported_with_pellucid() -> None:
    program = "import sys, pellucid, pellucid.integrations, pellucid.run.watcher; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    optional = {"lightning", "pytorch_lightning", "transformers", "trackio", "mlflow", "wandb", "pyarrow", "timm"}
    assert optional & set(loaded) == set()


def test_metrics_get_the_names_of_the_learning_curves() -> None:
    given = {"train/acc": 1, "training_loss": 2, "valid_accuracy": 3, "eval_loss": 4, "val_loss/dataloader_idx_0": 5}
    assert renamed(given) == {
        "train_accuracy": 1,
        "train_loss": 2,
        "validation_accuracy": 3,
        "validation_loss": 4,
        "val_loss/dataloader_idx_0": 5,
    }
