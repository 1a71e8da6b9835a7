"""A run with hooks in child processes gives the results of a serial one, whatever happens to the children."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comparing import assert_equal_runs

from pellucid.cli import main
from pellucid.core.contracts import Artifact
from pellucid.hooks import HOOKS, Hook
from pellucid.run import pipeline, schedule
from pellucid.storage.densities import DensityStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="hooks run in the main process on this platform"),
]

RUN = (
    "run --dataset digits --epochs 2 --limit-train 120 --limit-test 40 --batch-size 32 --threads 1 --classes 0,1 "
    "--methods gradient --seed 3"
).split()
HOOKS_OF_EACH_KIND = ("--hooks", "confusion_matrix,tsne,projector,prototypes,gallery")
"""With earlier arrays, films, an embedding, densities, and several end hooks."""


@pytest.fixture(autouse=True)
def two_processes(monkeypatch):
    """Run hooks in child processes, although pytest's own threads would make a run choose the serial mode."""
    monkeypatch.setattr(pipeline, "worker_count", lambda *_: 1)


@pytest.fixture
def count(monkeypatch):
    """A hook that counts epochs in an array that it receives again; its attributes make it misbehave."""

    class Count(Hook):
        effect = staticmethod(lambda scene: None)

        def run(self, scene):
            type(self).effect(scene)
            earlier = scene.previous["count"] if scene.previous else np.zeros(1)
            yield Artifact(
                caption="epochs", arrays={"count": earlier + 1}, numbers={"logit": float(scene.logits[0, 0])}
            )

    monkeypatch.setitem(HOOKS._entries, "count", Count)
    return Count


def entries(save: Path) -> list[tuple[str, int]]:
    manifest = json.loads((save / "manifest.json").read_text())
    # a hook can have several artifacts with arrays
    pairs = [(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"] if entry["kind"] == "arrays"]
    return list(dict.fromkeys(pairs))


def failures(save: Path) -> list[dict]:
    return json.loads((save / "manifest.json").read_text())["failures"]


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Path:
    """The save folder of a serial run."""
    folder = tmp_path_factory.mktemp("serial")
    assert main([*RUN, *HOOKS_OF_EACH_KIND, "--serial", "--save", str(folder)]) == 0
    return folder


def test_artifacts_order_and_bits_are_those_of_a_serial_run(serial, tmp_path, monkeypatch) -> None:
    children = []
    monkeypatch.setattr(os, "fork", lambda fork=os.fork: children.append(fork()) or children[-1])
    assert main([*RUN, *HOOKS_OF_EACH_KIND, "--save", str(tmp_path)]) == 0
    assert len(children) >= 8  # hooks of three epochs, a report, densities, two end hooks, films
    assert_equal_runs(serial, tmp_path)
    assert not list(tmp_path.glob("models/unfinished*"))
    names = ("gaussian_mixture", "vae")
    assert all(
        (tmp_path / f"models/{name}.safetensors").read_bytes() == (serial / f"models/{name}.safetensors").read_bytes()
        for name in names
    )


def test_second_run_fits_no_density(serial, tmp_path, monkeypatch) -> None:
    def refuse(*_: object):
        raise AssertionError("a density is fitted again")

    monkeypatch.setattr(DensityStore, "fit", refuse)
    flags = ("--hooks", "prototypes", "--data-dir", str(serial / "data"))
    assert main([*RUN, *flags, "--save", str(tmp_path)]) == 0
    assert (tmp_path / "models/vae.safetensors").read_bytes() == (serial / "models/vae.safetensors").read_bytes()


def test_child_that_is_killed_once_loses_nothing(tmp_path, count) -> None:
    marker = tmp_path / "killed"

    def die_once(scene) -> None:
        if scene.epoch == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    flags = ("--hooks", "confusion_matrix,count,tsne")
    assert main([*RUN, *flags, "--save", str(tmp_path / "whole")]) == 0
    count.effect = staticmethod(die_once)
    assert main([*RUN, *flags, "--save", str(tmp_path / "killed-once")]) == 0
    assert marker.exists()
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed-once")


def test_hook_that_always_kills_its_process_fails_alone(tmp_path, count) -> None:
    count.effect = staticmethod(lambda scene: os._exit(7) if scene.epoch == 1 else None)
    assert main([*RUN, "--hooks", "confusion_matrix,count,tsne", "--save", str(tmp_path)]) == 1
    (failure,) = failures(tmp_path)
    assert (failure["hook"], failure["epoch"]) == ("count", 1)
    assert failure["error"] == "its process ended with exit code 7, twice"
    assert entries(tmp_path) == [
        *((name, epoch) for epoch in (0,) for name in ("confusion_matrix", "count", "tsne")),
        *((name, 1) for name in ("confusion_matrix", "tsne")),
        *((name, 2) for name in ("confusion_matrix", "count", "tsne")),
    ]


def test_interrupted_run_repeats_the_hooks_that_were_running(tmp_path, monkeypatch, count) -> None:
    whole, save = tmp_path / "whole", tmp_path / "save"
    flags = ("--hooks", "confusion_matrix,count,tsne")
    assert main([*RUN, *flags, "--serial", "--save", str(whole)]) == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # the hooks of epoch 0 are still running when the training has ended
    count.effect = staticmethod(lambda scene: time.sleep(60))
    with monkeypatch.context() as patch:
        patch.setattr(schedule.Schedule, "finish", stop)
        assert main([*RUN, *flags, "--save", str(save)]) == 130
    assert not multiprocessing.active_children()
    assert {path.name for path in (save / "models").glob("unfinished*")} == {
        f"unfinished_epoch_{epoch:03d}.safetensors" for epoch in range(3)
    }
    assert json.loads((save / "run.json").read_text())["status"] == "interrupted"
    assert ("tsne", 0) not in entries(save)
    count.effect = staticmethod(lambda scene: None)
    assert main(["run", "--resume", "--save", str(save)]) == 0
    assert_equal_runs(whole, save)
    assert not list(save.glob("models/unfinished*"))


def test_serial_resumption_repeats_them_too(tmp_path, monkeypatch, count) -> None:
    whole, save = tmp_path / "whole", tmp_path / "save"
    flags = ("--hooks", "confusion_matrix,count")
    assert main([*RUN, *flags, "--serial", "--save", str(whole)]) == 0
    count.effect = staticmethod(lambda scene: time.sleep(60))
    with monkeypatch.context() as patch:
        patch.setattr(schedule.Schedule, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*RUN, *flags, "--save", str(save)]) == 130
    count.effect = staticmethod(lambda scene: None)
    assert main(["run", "--resume", "--serial", "--save", str(save)]) == 0
    assert_equal_runs(whole, save)


def test_error_outside_of_a_hook_ends_the_run_with_its_traceback(tmp_path, monkeypatch, capsys) -> None:
    def fail(*_: object):
        raise ZeroDivisionError("no scene")

    monkeypatch.setattr("pellucid.run.session.Session.scene", fail)
    assert main([*RUN, "--hooks", "confusion_matrix", "--save", str(tmp_path)]) == 1
    assert "hooks of epoch 0 failed in a child process" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    assert not multiprocessing.active_children()
