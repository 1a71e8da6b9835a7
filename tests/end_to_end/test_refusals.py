"""Invalid arguments are refused before any training, and nothing on disk is touched."""

import json
import shutil
from pathlib import Path

import pytest

from pellucid.cli import main
from pellucid.core.contracts import Artifact
from pellucid.hooks import HOOKS, Hook
from pellucid.storage.lock import locked

SMALL = ("--dataset", "digits", "--epochs", 1, "--limit-train", 60, "--limit-test", 30, "--hooks", "none")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The save folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "--threads", "1", *map(str, SMALL)]) == 0
    return folder / "save"


@pytest.fixture
def earlier(finished, run_program, tmp_path):
    """A finished run in save/, as a function that returns True while its files are intact."""
    shutil.copytree(finished, tmp_path / "save")
    files = {path: path.read_bytes() for path in (tmp_path / "save").rglob("*") if path.is_file()}

    def is_whole():
        return all(path.is_file() and path.read_bytes() == content for path, content in files.items())

    return is_whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "3,eleven"), "no class 'eleven'"),
        (("--classes", "10"), "no class '10'"),
        (("--embedding-layer", "head"), "no layer 'head'. Available: 0, 1, 2"),
        (("--dataset", "folder:absent"), "absent"),
        (("--dataset", "absent_module:data"), "cannot be imported"),
        (("--dataset", "mnist"), "127.0.0.1:9"),
        (("--model", "absent_module:net"), "--model absent_module:net: the module 'absent_module' cannot be imported"),
        (("--model", "basic", "--image-size", "8"), "at least 9×9 pixels, got 8×8"),
        (("--model", "torch.nn:Flatten"), "no trainable parameters"),
        (("--device", "cuda:77"), "--device cuda:77"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--resume", "--precision", "bf16"), "resumed with different settings: --precision was float32, now bf16"),
        (("--resume", "--seed", "5", "--batch-size", "7"), "--batch-size was 128, now 7; --seed was 0, now 5"),
    ],
)
def test_invalid_argument_is_reported_and_touches_nothing(arguments, message, earlier, run_program, capsys):
    given = arguments if arguments[0] == "--resume" else (*SMALL, *arguments)
    assert run_program(*given) == 2
    assert message in capsys.readouterr().err
    assert earlier()


def test_second_run_in_the_same_folder_is_refused(earlier, run_program, tmp_path, capsys):
    with locked(tmp_path / "save"):
        assert run_program(*SMALL) == 2
    # the lock of another process is tested in test_resume
    assert "this process itself is still using save" in capsys.readouterr().err
    assert earlier()


def test_new_run_moves_the_earlier_one(earlier, run_program, tmp_path):
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


def test_failed_hook_is_reported_and_does_not_stop_the_run(failing_hook, run_program, tmp_path, capsys):
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


class Careless(Hook):
    """Returns an artifact that cannot be stored."""

    def run(self, scene):
        yield Artifact("fine", numbers={"value": object()})


class Sneaky(Hook):
    """Tries to write outside the save folder."""

    def run(self, scene):
        yield Artifact("fine", name="../../../escaped", numbers={"value": 1})


class Surrogate(Hook):
    """Returns a caption that no file can hold."""

    def run(self, scene):
        yield Artifact("caf\udce9", numbers={"value": 1})


@pytest.mark.parametrize("hook", [Careless, Sneaky, Surrogate])
def test_invalid_artifact_is_a_hook_failure(hook, run_program, tmp_path, monkeypatch):
    monkeypatch.setitem(HOOKS._entries, "bad", hook)
    assert run_program(*SMALL[:-1], "bad") == 1
    assert len(json.loads((tmp_path / "save/manifest.json").read_text())["failures"]) == 2
    assert not list(tmp_path.rglob("escaped*"))
    assert run_program("--resume") == 1  # finished, but with failures


class Muttering(Hook):
    """Fails with a message that no file can hold."""

    def run(self, scene):
        raise ValueError("caf\udce9")
        yield


def test_any_message_of_a_failed_hook_is_recorded(run_program, tmp_path, monkeypatch):
    monkeypatch.setitem(HOOKS._entries, "bad", Muttering)
    assert run_program(*SMALL[:-1], "bad") == 1
    failures = json.loads((tmp_path / "save/manifest.json").read_text())["failures"]
    assert [one["error"] for one in failures] == ["ValueError: caf\\udce9"] * 2
    assert "caf\\udce9" in (tmp_path / "save/errors/bad_epoch_001.txt").read_text()


@pytest.mark.parametrize(
    "arguments", [("--save", "caf\udce9"), ("--dataset", "folder:caf\udce9"), ("--caf\udce9", "1")]
)
def test_arguments_that_cannot_be_recorded_are_refused(arguments, run_program, tmp_path, capsys):
    assert run_program(*SMALL, *arguments) == 2
    assert "cannot be stored as UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["epoch", "end"])
@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_save_folder_that_disappears_ends_the_run_with_a_message(
    how, moment, run_program, tmp_path, monkeypatch, capsys
):
    class Destructive(Hook):
        when = moment

        def run(self, scene):
            if scene.epoch == 1:
                shutil.rmtree("save") if how == "deleted" else Path("save").rename("elsewhere")
            yield Artifact("fine", numbers={"epoch": scene.epoch})

    monkeypatch.setitem(HOOKS._entries, "destructive", Destructive)
    assert run_program(*SMALL[:-1], "destructive", "--save", "save") == 1
    assert "the save folder save was deleted or moved during the run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ([] if how == "deleted" else ["elsewhere"])


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:20])])
@pytest.mark.parametrize("name", ["best.safetensors", "last.ckpt"])
def test_resume_without_weights_is_refused(name, damage, earlier, run_program, tmp_path, capsys):
    record = json.loads((tmp_path / "save/run.json").read_text())
    (tmp_path / "save/run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    damage(tmp_path / "save/models" / name)
    assert run_program("--resume") == 2
    assert "is missing" in (message := capsys.readouterr().err) or "damaged" in message or "cannot be read" in message
    assert "without --resume" in message or "train again" in message


def test_unusual_folder_names_are_shown_verbatim(run_program, tmp_path, capsys):
    assert run_program(*SMALL, "--save", "sa[/b]v :cat:") == 0
    assert "--logdir='sa[/b]v :cat:/logs'" in capsys.readouterr().out


def test_model_that_rejects_single_images_can_be_trained(earlier, run_program, tmp_path, monkeypatch):
    (tmp_path / "single_of_test.py").write_text(
        "from torch import nn\n"
        "class Single(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        if len(x) == 1: raise ValueError('one image')\n"
        "        return super().forward(x)\n"
        "def net(): return Single(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    assert run_program(*SMALL, "--model", "single_of_test:net") == 0
    assert json.loads((tmp_path / "save/run.json").read_text())["model"]["embedding_layer"] is None
