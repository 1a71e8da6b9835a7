"""SIGTERM ends a run as Ctrl-C does, whatever the run is doing: it can be resumed, and the exit code is 143."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import Program

from pellucid.cli import main
from pellucid.hooks import HOOKS
from pellucid.run import hook_runner, pipeline, session
from pellucid.training.loop import _Trainer

SMALL = (
    "--dataset digits --epochs 1 --limit-train 60 --limit-test 20 --threads 1 --hooks confusion_matrix,ending".split()
)


class Ending(HOOKS["confusion_matrix"]):
    """A hook that runs at the end."""

    when = "end"

    def run(self, scene):
        return super().run(scene)


@pytest.fixture
def ending_hook(monkeypatch):
    monkeypatch.setitem(HOOKS._entries, "ending", Ending)


PHASES = {
    "data": (session, "load_data"),
    "model": (session, "build_network"),
    "start": (pipeline, "print_start"),
    "hook": (HOOKS["confusion_matrix"], "run"),
    "training": (_Trainer, "_step"),
    "end hook": (Ending, "run"),
    "report": (hook_runner, "render_report"),
}


QUICK = ("data", "end hook")


@pytest.mark.parametrize(
    "phase", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PHASES]
)
def test_sigterm_in_every_phase(phase, ending_hook, tmp_path, monkeypatch, capsys):
    place, name = PHASES[phase]
    work, save = getattr(place, name), tmp_path / "save"

    def end(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return work(*arguments, **options)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, end)
        assert main(["run", *SMALL, "--serial", "--save", str(save)]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    printed = capsys.readouterr()
    assert printed.err == "pellucid: terminated.\n"
    if phase in ("data", "model"):  # nothing has begun yet
        assert not save.exists() or not (save / "run.json").exists()
        return
    assert "Interrupted. Resume with:" in printed.out
    assert f"--resume --save {save}" in printed.out
    assert json.loads((save / "run.json").read_text())["status"] == "interrupted"
    assert main(["run", "--resume", "--serial", "--save", str(save)]) == 0
    assert json.loads((save / "run.json").read_text())["status"] == "finished"


def test_sigterm_after_the_last_hook_does_not_stop_the_run(tmp_path, monkeypatch):
    record = pipeline.finished_record

    def end(store):
        signal.raise_signal(signal.SIGTERM)
        return record(store)

    monkeypatch.setattr(pipeline, "finished_record", end)
    assert main(["run", *SMALL, "--hooks", "none", "--save", str(tmp_path / "save")]) == 0
    assert json.loads((tmp_path / "save/run.json").read_text())["status"] == "finished"


def test_sigterm_while_torch_is_imported(tmp_path):
    program = (
        "import importlib.abc, signal, sys\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': signal.raise_signal(signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from pellucid.cli import entry\n"
        f"sys.argv[1:] = ['run', '--save', {str(tmp_path / 'save')!r}]\n"
        "entry()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "pellucid: terminated.\n")
    assert not (tmp_path / "save").exists()


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the processes")
@pytest.mark.parametrize("reached", ["run.json", "models/last.ckpt", "plots/confusion_matrix/epoch_001.png"])
def test_sigterm_leaves_no_process_and_a_resumable_run(reached, tmp_path):
    """With hooks in processes beside the training, which are waiting, running or done."""
    save = tmp_path / "save"
    few = ["--dataset", "digits", "--epochs", "2", "--limit-train", "400", "--limit-test", "100", "--threads", "1"]
    process = Program("run", *few, "--hooks", "default", "--methods", "gradient", "--save", save)
    wait_until((save / reached).exists)
    helpers = children(process)
    process.send_signal(signal.SIGTERM)
    ended = process.finish(60)
    assert (ended.code, ended.err) == (143, "pellucid: terminated.\n")
    assert f"--resume --save {save}" in ended.out
    assert json.loads((save / "run.json").read_text())["status"] == "interrupted"
    assert not any(Path(f"/proc/{number}").exists() for number in helpers)
    assert main(["run", "--resume", "--hooks", "confusion_matrix", "--save", str(save)]) == 0
    assert json.loads((save / "run.json").read_text())["status"] == "finished"
