"""Full disks, read-only folders and missing data: files stay intact and the error says what to do."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from comparing import assert_equal_runs
from programs import SHORT, Program

from pellucid.cli import main
from pellucid.storage.weights import unpack_weights
from pellucid.training.checkpoint import unpack_state

QUICK = (
    "--dataset digits --epochs 2 --limit-train 120 --limit-test 40 --batch-size 32 "
    "--threads 1 --methods gradient".split()
)
SOME = ("--hooks", "confusion_matrix,saliency,tsne,projector,prototypes")
"""Hooks of each kind: earlier arrays, films, an embedding, and one at the end."""


def assert_whole(save):
    """Assert that every file in the folder can be read completely."""
    for path in save.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays.files)
        elif path.suffix == ".ckpt":
            unpack_state(path.read_bytes())
        elif path.suffix == ".safetensors":
            unpack_weights(path.read_bytes())
    assert not list(save.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a small disk, if the user may do so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a disk")
        mounted.append(True)
        return folder

    yield mount
    for _ in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run with enough disk space."""
    save = tmp_path_factory.mktemp("undisturbed") / "save"
    assert main(["run", *QUICK, *SOME, "--save", str(save)]) == 0
    return save


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [700, 2500])
def test_full_disk(kilobytes, small_disk, undisturbed):
    disk = small_disk(f"size={kilobytes}k")
    failed = Program("run", *QUICK, *SOME, "--save", disk / "save", constants=SHORT).finish()
    assert failed.code != 0, "the disk is large enough: make it smaller"
    assert "Traceback" not in failed.err
    assert "the disk is full" in failed.err or "No space left" in failed.err
    assert "--resume" in failed.err
    assert_whole(disk / "save")
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
    assert main(["run", "--resume", "--save", str(disk / "save")]) == 0
    assert_equal_runs(undisturbed, disk / "save")


@pytest.mark.parametrize(
    ("hooks", "named", "limit"),
    [("none", "last.ckpt", 250_000), ("confusion_matrix,hardest,saliency", "logs", 400_000)],
)
def test_file_size_limit(hooks, named, limit, tmp_path):
    save = tmp_path / "save"
    arguments = ("run", *QUICK, "--serial", "--hooks", hooks, "--save", save)
    failed = Program(*arguments, file_size_limit=limit).finish()
    assert failed.code != 0
    assert "Traceback" not in failed.err
    assert f"{named} cannot be written: the file exceeds the size limit" in failed.err
    assert_whole(save)
    assert json.loads((save / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_read_only_folder(small_disk):
    disk = small_disk("ro")
    failed = Program("run", *QUICK, "--save", disk / "save").finish()
    assert failed.code == 2
    assert "choose another folder with --save" in failed.err
    assert "Traceback" not in failed.err


def test_folder_of_another_user(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    (tmp_path / "save").mkdir(mode=0o500)
    failed = Program("run", *QUICK, "--save", tmp_path / "save").finish()
    assert failed.code == 2
    assert "choose another folder with --save" in failed.err


def test_missing_data_is_downloaded_again_or_reported(tmp_path, mnist_files, monkeypatch, capsys):
    monkeypatch.setattr("pellucid.data.mnist.PUBLIC_MIRRORS", ("http://127.0.0.1:9/",))
    mirror = tmp_path / "mirror"
    shutil.copytree(mnist_files, mirror)
    save = tmp_path / "save"
    settings = ["--dataset", "mnist", "--mirror", str(mirror), "--limit-train", "200", "--limit-test", "50"]
    assert main(["run", *settings, "--epochs", "1", "--hooks", "none", "--threads", "1", "--save", str(save)]) == 0
    record = json.loads((save / "run.json").read_text())
    (save / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    shutil.rmtree(save / "data")
    mirror.rename(tmp_path / "away")
    before = {path: path.read_bytes() for path in save.rglob("*") if path.is_file()}
    assert main(["run", "--resume", "--save", str(save)]) == 2
    message = capsys.readouterr().err
    assert str(mirror) in message
    assert "--mirror" in message
    after = {path: path.read_bytes() for path in save.rglob("*") if path.is_file()}
    assert before.items() <= after.items() | {(save / ".lock", b"")}
    (tmp_path / "away").rename(mirror)
    assert main(["run", "--resume", "--save", str(save)]) == 0
    assert json.loads((save / "run.json").read_text())["status"] == "finished"
