"""A run that is interrupted at any moment and resumed gives the same result as an uninterrupted one."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from comparing import assert_equal_runs
from programs import SHORT, Program

from pellucid.cli import main
from pellucid.hooks.tsne import TSNE
from pellucid.storage import atomic, store, tensorboard
from pellucid.training import loop

SMALL = (
    "--dataset digits --epochs 2 --limit-train 280 --limit-test 40 --batch-size 32 "
    "--threads 1 --classes 0,1,2 --methods gradient".split()
)
"""Eight steps per epoch, random shifts and all hooks."""
ALL = (*SMALL, "--epochs", "1")
QUICK = (*SMALL, "--hooks", "confusion_matrix,saliency,tsne,projector,prototypes")
"""With hooks of each kind: earlier arrays, films, an embedding, and densities that are fitted at the end."""


class Killed(BaseException):
    """Simulates the death of the process; nothing is written afterwards."""


@pytest.fixture(scope="module", autouse=True)
def frequent_checkpoints():
    """Write a checkpoint after each step, so that runs resume in mid-epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, frequent_checkpoints):
    """The save folder of an uninterrupted run with all hooks."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["run", *ALL, "--save", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def counted(tmp_path_factory, frequent_checkpoints):
    """An uninterrupted run with some of the hooks, and the number of files it writes."""
    folder = tmp_path_factory.mktemp("quick")
    writes = []
    with pytest.MonkeyPatch.context() as patch:
        write = atomic.write_bytes

        def count(path, content):
            writes.append(path)
            write(path, content)

        everywhere(patch, count)
        assert main(["run", *QUICK, "--save", str(folder)]) == 0
    return folder, len(writes)


@pytest.fixture(scope="module")
def quick(counted):
    """The save folder of an uninterrupted run with some of the hooks."""
    return counted[0]


def everywhere(patch, write):
    """Replace the function that writes all files by `write`."""
    for module in (atomic, store, tensorboard):
        patch.setattr(module, "write_bytes", write)


class Fault:
    """Dies before or after the n-th write; all later writes fail."""

    def __init__(self, at, after):
        self.at, self.after, self.seen, self.dead = at, after, 0, False

    def __call__(self, path, content):
        if self.dead:
            raise Killed
        self.seen += 1
        if self.seen == self.at:
            self.dead = True
            if self.after:
                WRITE(path, content)
            raise Killed
        WRITE(path, content)


WRITE = atomic.write_bytes


def run_and_die(patch, folder, fault):
    everywhere(patch, fault)
    with pytest.raises(Killed):
        main(["run", *QUICK, "--save", str(folder)])


def resume(folder):
    return main(["run", "--resume", "--save", str(folder)])


SHARES = [(number + 0.5) / 14 for number in range(14)]


def fault_point(share, writes):
    """Return the number of the write at which the process dies; before the third, there is nothing to resume."""
    return max(3, round(share * writes))


@pytest.fixture(scope="module")
def remains(counted, tmp_path_factory):
    """The save folder as a process leaves it that dies at a fault point, copied from one run while it goes on.

    It dies before the writes with an even number, and after those with an odd one.
    """
    folder, points, seen = tmp_path_factory.mktemp("remains"), {fault_point(share, counted[1]) for share in SHARES}, []

    def write(path, content):
        seen.append(path)
        is_point, is_after = len(seen) in points, len(seen) % 2
        for moment in (False, True):
            if is_point and is_after == moment:
                shutil.copytree(folder / "save", folder / str(len(seen)))
            if not moment:
                WRITE(path, content)

    with pytest.MonkeyPatch.context() as patch:
        everywhere(patch, write)
        assert main(["run", *QUICK, "--save", str(folder / "save")]) == 0
    assert len(seen) == counted[1]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
def test_death_at_any_write(share, counted, remains, tmp_path):
    """Fourteen fault points spread over all writes of a run, alternating between before and after the write."""
    reference, writes = counted
    save = (remains / str(fault_point(share, writes))).rename(tmp_path / "save")
    assert json.loads((save / "run.json").read_text())["status"] == "running"
    assert resume(save) == 0
    assert_equal_runs(reference, save)
    assert not list(save.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("at", "after"), [(1, False), (2, False)])
def test_death_before_run_json_leaves_nothing_to_resume(at, after, quick, tmp_path, capsys):
    save = tmp_path / "save"
    with pytest.MonkeyPatch.context() as patch:
        run_and_die(patch, save, Fault(at, after))
    assert resume(save) == 2
    assert f"cannot resume a run in {save}" in capsys.readouterr().err
    assert main(["run", *QUICK, "--save", str(save)]) == 0
    assert not (save / "previous").exists()
    assert_equal_runs(quick, save)


@pytest.mark.slow
@pytest.mark.parametrize("again", ["resumed", "new"])
def test_death_right_after_run_json(again, quick, tmp_path):
    save = tmp_path / "save"
    with pytest.MonkeyPatch.context() as patch:
        run_and_die(patch, save, Fault(2, after=True))
    assert (resume(save) if again == "resumed" else main(["run", *QUICK, "--save", str(save)])) == 0
    assert (save / "previous").exists() == (again == "new")
    assert_equal_runs(quick, save)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", range(6))
@pytest.mark.slow
def test_death_while_moving_an_earlier_run_loses_nothing(at, quick, tmp_path, monkeypatch):
    """The process dies after some moves; a new run completes them."""
    save = tmp_path / "save"
    shutil.copytree(quick, save)
    earlier = contents(save)
    second = (*SMALL, "--epochs", "1", "--hooks", "none", "--seed", "7", "--save", str(save))
    rename, moved = Path.rename, []

    def die(self, target):
        if len(moved) == at:
            raise Killed
        moved.append(self.name)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(Killed):
            main(["run", *second])
    kept = contents(save)
    kept |= {Path(*path.parts[2:]): content for path, content in kept.items() if path.parts[0] == "previous"}
    assert len(moved) == at
    assert all(kept.get(path) == content for path, content in earlier.items())

    assert main(["run", *second]) == 0
    (previous,) = (save / "previous").iterdir()
    moved_aside = {path.name for path in previous.iterdir()}
    assert {"models", "logs", "plots", "metrics.jsonl", "manifest.json", "run.json"} <= moved_aside
    assert {path: content for path, content in earlier.items() if path.parts[0] in moved_aside} == contents(previous)
    record = json.loads((save / "run.json").read_text())
    assert (record["status"], record["config"]["seed"]) == ("finished", 7)


@pytest.mark.slow
def test_two_deaths_in_the_middle_of_an_epoch(quick, tmp_path):
    step = loop._Trainer._step
    for place in ((1, 3), (2, 6)):
        with pytest.MonkeyPatch.context() as patch:

            def die(self, images, labels, progress, place=place):
                if (progress.epoch, progress.step) == place:
                    raise Killed
                return step(self, images, labels, progress)

            patch.setattr(loop._Trainer, "_step", die)
            with pytest.raises(Killed):
                main(["run", *(QUICK if place == (1, 3) else ["--resume"]), "--save", str(tmp_path / "save")])
    assert resume(tmp_path / "save") == 0
    assert_equal_runs(quick, tmp_path / "save")


@pytest.mark.slow
def test_more_epochs_extend_a_finished_run(quick, tmp_path, capsys):
    save, step = tmp_path / "save", loop._Trainer._step
    shutil.copytree(quick, save)
    files = contents(save)
    assert main(["run", "--resume", "--epochs", "1", "--save", str(save)]) == 2
    assert "planned for 2 epochs and cannot be shortened to --epochs 1" in capsys.readouterr().err
    assert contents(save) == files
    with pytest.MonkeyPatch.context() as patch:

        def die(self, images, labels, progress):
            if (progress.epoch, progress.step) == (3, 4):
                raise Killed
            return step(self, images, labels, progress)

        patch.setattr(loop._Trainer, "_step", die)
        with pytest.raises(Killed):
            main(["run", "--resume", "--epochs", "3", "--save", str(save)])
    assert "Extending the run from 2 to 3 epochs" in capsys.readouterr().out
    assert resume(save) == 0
    record = json.loads((save / "run.json").read_text())
    assert (record["status"], record["epochs"], record["config"]["epochs"]) == ("finished", 3, 3)
    assert record["extensions"] == [{"epoch": 2, "step": 8, "from": 2, "to": 3}]
    lines, before = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (save, quick))
    plain = [{**json.loads(line), "timing": None} for line in lines]
    assert plain[:3] == [{**json.loads(line), "timing": None} for line in before]
    assert [line["epoch"] for line in plain] == [0, 1, 2, 3]
    films = [one for one in json.loads((save / "manifest.json").read_text())["artifacts"] if one["kind"] == "film"]
    assert films
    assert {one["epoch"] for one in films} == {3}
    assert "3 (extended from 2 after epoch 2)" in (save / "report.html").read_text()

    straight = tmp_path / "straight"
    shutil.copytree(quick, straight)
    assert main(["run", "--resume", "--epochs", "3", "--save", str(straight)]) == 0
    assert_equal_runs(straight, save)  # with the weights of every epoch
    kept = [path.name for path in sorted((save / "models").glob("epoch_*"))]
    assert kept == [f"epoch_{epoch:03d}.safetensors" for epoch in range(4)]
    for name in kept[:3]:
        assert (save / "models" / name).read_bytes() == (quick / "models" / name).read_bytes()


@pytest.mark.slow
def test_death_inside_a_hook(quick, tmp_path, monkeypatch):
    run = TSNE.run

    def die(self, scene):
        if scene.epoch == 2:
            raise Killed
        return run(self, scene)

    with monkeypatch.context() as patch:
        patch.setattr(TSNE, "run", die)
        with pytest.raises(Killed):
            main(["run", *QUICK, "--save", str(tmp_path / "save")])
    assert resume(tmp_path / "save") == 0
    assert_equal_runs(quick, tmp_path / "save")


def test_resuming_a_finished_run_changes_nothing(quick, capsys):
    before = {path: path.read_bytes() for path in (quick / "plots").rglob("*.*")}
    assert resume(quick) == 0
    assert {path: path.read_bytes() for path in (quick / "plots").rglob("*.*")} == before
    assert "already finished" in capsys.readouterr().out


@pytest.mark.slow
def test_nan_loss_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys, quick):
    cross_entropy = loop.F.cross_entropy
    with monkeypatch.context() as patch:
        calls = iter(range(1000))
        patch.setattr(
            loop.F, "cross_entropy", lambda *a: cross_entropy(*a) * (float("nan") if next(calls) == 15 else 1)
        )
        assert main(["run", *QUICK, "--save", str(tmp_path / "save")]) == 1
    assert "the loss is nan in epoch 2, step 4 of 8" in capsys.readouterr().err
    assert json.loads((tmp_path / "save/run.json").read_text())["status"] == "failed"
    assert resume(tmp_path / "save") == 0
    assert_equal_runs(quick, tmp_path / "save")


@pytest.mark.slow
def test_run_with_changed_data_cannot_be_resumed(tmp_path, monkeypatch, capsys):
    assert main(["run", *SMALL, "--hooks", "none", "--save", str(tmp_path / "save")]) == 0
    record = json.loads((tmp_path / "save/run.json").read_text())
    record["dataset"]["sha256"] = "0" * 64
    record["status"] = "interrupted"
    (tmp_path / "save/run.json").write_text(json.dumps(record))
    assert resume(tmp_path / "save") == 2
    assert "the data set digits has changed since the run started" in capsys.readouterr().err


def start(*arguments):
    """Start the program as a process that can be killed, with the same shortened computations."""
    return Program("run", *arguments, constants=SHORT)


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "reference", "seconds"), [(ALL, "uninterrupted", 6), (QUICK, "quick", 3)])
def test_sigkill_at_a_random_moment(flags, reference, seconds, request, tmp_path):
    """With all hooks, and with some of them."""
    save, reference = tmp_path / "save", request.getfixturevalue(reference)
    process = start(*flags, "--save", save)
    wait_for(save / "run.json")
    time.sleep(random.Random(seconds).uniform(0.0, seconds))
    process.send_signal(signal.SIGKILL)
    process.finish()
    again = start("--resume", "--save", save).finish()
    assert again.code == 0, again
    assert_equal_runs(reference, save)


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(tmp_path):
    save = tmp_path / "save"
    long = ("--dataset", "digits", "--epochs", 200, "--threads", 1, "--hooks", "none", "--save", save)
    process = start(*long)
    wait_for(save / "models/last.ckpt")
    process.send_signal(signal.SIGINT)
    ended = process.finish(60)
    assert ended.code == 130, ended
    assert f"--resume --save {save}" in ended.out
    assert json.loads((save / "run.json").read_text())["status"] == "interrupted"
    assert (save / "models/last.ckpt").stat().st_size > 0


@pytest.mark.slow
def test_a_resumed_run_keeps_its_threads(tmp_path):
    """Results depend on their number in the last bits."""
    save = tmp_path / "save"
    own = [one for one in SMALL if one not in ("--threads", "1")]
    assert main(["run", *own, "--epochs", "1", "--hooks", "none", "--save", str(save)]) == 0
    record = json.loads((save / "run.json").read_text())
    (save / "run.json").write_text(json.dumps(record | {"threads": 2}))  # as on a machine with other defaults
    assert main(["run", "--resume", "--epochs", "2", "--save", str(save)]) == 0
    assert torch.get_num_threads() == 2
