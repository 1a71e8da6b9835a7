"""A function that a run folder names is imported only for users who say that they trust the folder."""

import json
import shutil
import sys

import pytest
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.core.errors import ConfigError
from pellucid.storage.runs import Run, load_data_of
from pellucid.training import loop

MODULE = """
import pathlib
import torch
from torch import nn

pathlib.Path({mark!r}).write_text("imported")

def network(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))

def data():
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = torch.utils.data.TensorDataset(images, torch.arange(40) % 2)
    return whole, whole, ["even", "odd"]
"""
SMALL = ("--dataset=own_of_trust:data", "--model=own_of_trust:network", "--hooks=none", "--batch-size=8")


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A finished run of a user's functions, and a function that tells whether their module was imported since."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    (tmp_path / "own_of_trust.py").write_text(MODULE.format(mark=str(mark)))
    assert main(["run", *SMALL, "--epochs=1"]) == 0

    def forget():
        sys.modules.pop("own_of_trust", None)
        mark.unlink(missing_ok=True)

    forget()
    yield tmp_path / "save", mark.exists
    forget()
    sys.path.remove(str(tmp_path))


def change(save, part, name, value):
    record = json.loads((save / "run.json").read_text())
    record[part][name] = value
    (save / "run.json").write_text(json.dumps(record))


def test_load_run_imports_only_with_trust(save):
    folder, is_imported = save
    with pytest.raises(ConfigError, match=r"the model in .*save is the function own_of_trust:network.*trust=True"):
        pellucid.load_run(folder)
    assert not is_imported()
    run = pellucid.load_run(folder, trust=True)
    assert is_imported()
    assert len(load_data_of(folder, run).train) > 30


def test_data_of_a_run_loaded_without_trust_is_not_imported(save):
    folder, is_imported = save
    change(folder, "model", "name", "mlp")
    run = Run(nn.Flatten(), config={}, classes=(), metrics=[])
    with pytest.raises(ConfigError, match="the data set in .* is the function own_of_trust:data"):
        load_data_of(folder, run)
    assert not is_imported()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--resume"], 2),
        (["run", "--resume", "--model=own_of_trust:network"], 2),
        (["run", "--resume", "--dataset", "own_of_trust:data"], 2),
        (["run", "--config", "save/run.json", "--save", "other"], 2),
        (["evaluate", "save", "--methods", "gradient", "--metrics", "sparseness"], 2),
        (["run", "--resume", *SMALL], 0),
        (["run", "--resume", "--trust"], 0),
        (["run", "--config", "save/run.json", "--save", "other", "--trust"], 0),
        (["evaluate", "save", "--methods", "gradient", "--metrics", "sparseness", "--trust"], 0),
    ],
)
def test_commands_import_only_with_trust(arguments, code, save, capsys):
    _, is_imported = save
    assert main(arguments) == code
    if code:
        assert not is_imported()
        assert "importing it runs its code" in capsys.readouterr().err


def test_a_toml_file_is_the_users_own(save, tmp_path):
    (tmp_path / "own.toml").write_text('dataset = "own_of_trust:data"\nmodel = "own_of_trust:network"\nepochs = 1\n')
    assert main(["run", "--config", "own.toml", "--save", "other", "--hooks", "none"]) == 0


def test_a_record_cannot_replace_the_data_by_a_function(save, capsys):
    """The data set is loaded by its resolved name, which the flags do not show."""
    folder, is_imported = save
    assert main(["run", "--dataset=digits", "--limit-train=60", "--epochs=1", "--hooks=none", "--save", "plain"]) == 0
    plain = folder.parent / "plain"
    change(plain, "dataset", "name", "own_of_trust:data")
    assert main(["run", "--resume", "--epochs", "2", "--save", str(plain)]) == 2
    assert "the data set in" in capsys.readouterr().err
    assert not is_imported()


def test_the_printed_resume_command_includes_trust(save, tmp_path, capsys, monkeypatch):
    step = loop._Trainer._step

    def interrupt(self, images, labels, progress):
        if progress.step == 1:
            raise KeyboardInterrupt
        return step(self, images, labels, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, "_step", interrupt)
        assert main(["run", *SMALL, "--epochs=1", "--save", "cut"]) == 130
        assert "--resume --save cut --trust" in capsys.readouterr().out
        shutil.rmtree("cut")
        plain = ("--dataset=digits", "--limit-train=60", "--batch-size=8", "--hooks=none", "--epochs=1")
        assert main(["run", *plain, "--save", "cut"]) == 130
        printed = capsys.readouterr().out
    assert "--resume --save cut" in printed
    assert "--trust" not in printed
