"""What cannot work is refused before any training, and nothing on disk is touched."""

import json

import pytest

from pellucid.artifacts.lock import locked
from pellucid.core.contracts import Artifact
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook

SMALL = ("--dataset", "digits", "--epochs", 1, "--limit-train", 60, "--limit-test", 30, "--hooks", "none")


@pytest.fixture
def earlier(run_program, tmp_path):
    """A finished run in save/, and a function that tells whether it is still whole."""
    assert run_program(*SMALL) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "save").rglob("*") if path.is_file()}

    def is_whole():
        return all(path.is_file() and path.read_bytes() == content for path, content in files.items())

    return is_whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "3,eleven"), "no class 'eleven'"),
        (("--classes", "10"), "no class '10'"),
        (("--embedding-layer", "head"), "no layer 'head'; The names are: 0, 1, 2"),
        (("--dataset", "folder:absent"), "absent"),
        (("--dataset", "absent_module:data"), "cannot be imported"),
        (("--dataset", "mnist"), "127.0.0.1:9"),
        (("--model", "absent_module:net"), "--model absent_module:net: the module 'absent_module' cannot be imported"),
        (("--model", "basic", "--image-size", "8"), "at least 9×9 pixels, and these are 8×8"),
        (("--model", "torch.nn:Flatten"), "no parameter that could be trained"),
        (("--device", "cuda:77"), "--device cuda:77"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--resume", "--epochs", "2"), "cannot be resumed with other settings: --epochs was 1 and is 2"),
        (("--resume", "--seed", "5", "--batch-size", "7"), "--batch-size was 256 and is 7; --seed was 0 and is 5"),
    ],
)
def test_a_wrong_argument_gets_its_message_and_touches_nothing(arguments, message, earlier, run_program, capsys):
    given = arguments if arguments[0] == "--resume" else (*SMALL, *arguments)
    assert run_program(*given) == 2
    assert message in capsys.readouterr().err
    assert earlier()


def test_a_run_already_going_on_is_refused(earlier, run_program, tmp_path, capsys):
    with locked(tmp_path / "save"):
        assert run_program(*SMALL) == 2
    assert "a run is already going on in save (process" in capsys.readouterr().err
    assert earlier()


def test_a_new_run_moves_the_old_one_aside(earlier, run_program, tmp_path):
    before = (tmp_path / "save/run.json").read_bytes()
    started = json.loads(before)["timing"]["started"].replace(":", "-")
    assert run_program(*SMALL, "--seed", 1) == 0
    assert (tmp_path / "save/previous" / started / "run.json").read_bytes() == before
    assert json.loads((tmp_path / "save/run.json").read_text())["seed"] == 1


@pytest.fixture
def failing_hook(monkeypatch):
    class Failing(Hook):
        def run(self, scene):
            if scene.epoch == 1:
                raise ZeroDivisionError("a hook's own fault")
            yield Artifact("fine", numbers={"epoch": scene.epoch})

    monkeypatch.setitem(HOOKS._entries, "failing", Failing)


def test_a_hook_that_fails_is_told_and_does_not_stop_the_run(failing_hook, run_program, tmp_path, capsys):
    settings = ("--dataset", "digits", "--epochs", 2, "--limit-train", 60, "--limit-test", 30)
    assert run_program(*settings, "--hooks", "failing,confusion_matrix") == 1
    manifest = json.loads((tmp_path / "save/manifest.json").read_text())
    assert manifest["failures"] == [
        {
            "hook": "failing",
            "epoch": 1,
            "error": "ZeroDivisionError: a hook's own fault",
            "log": "errors/failing_epoch_001.txt",
        }
    ]
    log = (tmp_path / "save/errors/failing_epoch_001.txt").read_text()
    assert "Traceback" in log
    assert "a hook's own fault" in log
    shown = {(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"]}
    assert shown == {
        ("confusion_matrix", 0),
        ("confusion_matrix", 1),
        ("confusion_matrix", 2),
        ("failing", 0),
        ("failing", 2),
    }
    assert json.loads((tmp_path / "save/run.json").read_text())["status"] == "finished"
    assert "hook failing failed at epoch 1" in capsys.readouterr().out
