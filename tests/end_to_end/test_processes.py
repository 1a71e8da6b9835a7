"""Distributed runs: same results as one process, one set of files, one error message and a joint exit."""

import json
import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import Program

import pellucid
from pellucid.cli import main
from pellucid.data import Request, load_data

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).parents[2] / "runner.py"
SMALL = "--dataset digits --limit-train 280 --limit-test 45 --batch-size 32 --threads 1 --methods gradient".split()
SOME = ("--epochs", "2", "--hooks", "confusion_matrix,saliency,tsne,projector,leaderboard")
"""Two epochs with hooks of each kind: earlier arrays, films, an embedding, and one at the end."""


def torchrun(*arguments):
    """Start `torchrun` with two processes."""
    two = ("--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", RUNNER)
    return Program(*two, *arguments, main="torch.distributed.run.main", variables={"OMP_NUM_THREADS": "1"})


def ranks_of(*arguments):
    """Run two processes without torchrun, whose own take seconds to import everything, and return how they ended."""
    (port,) = free_ports(1)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    each = [{"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    programs = [Program(*arguments, variables=world | rank) for rank in each]
    return [program.finish() for program in programs]


def read_json(path):
    return json.loads(path.read_text())


def counts(save, epoch):
    return read_json(save / f"plots/confusion_matrix/epoch_{epoch:03d}.json")["counts"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run with one process."""
    save = tmp_path_factory.mktemp("one")
    assert main(["run", *SMALL, *SOME, "--save", str(save)]) == 0
    return save


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with two processes."""
    save = tmp_path_factory.mktemp("two")
    ended = torchrun(*SMALL, *SOME, "--save", save).finish(180)
    assert ended.code == 0, ended.err
    assert ended.out.count("Epoch 2/2") == 1
    assert "another process" not in ended.err
    return save


def test_two_processes_write_the_same_artifacts(one, two):
    assert read_json(two / "run.json")["processes"] == 2
    listed = [[entry["path"] for entry in read_json(save / "manifest.json")["artifacts"]] for save in (one, two)]
    assert listed[0] == listed[1]
    assert [line["epoch"] for line in pellucid.load_run(two).metrics] == [0, 1, 2]


def test_untrained_network_has_the_same_metrics(one, two):
    assert counts(one, 0) == counts(two, 0)
    first, second = (pellucid.load_run(save).metrics[0] for save in (one, two))
    assert {key: first[key] for key in first if key != "timing"} == {
        key: second[key] for key in second if key != "timing"
    }


def test_confusion_matrix_matches_the_saved_weights(two):
    run = pellucid.load_run(two)
    best = [line["epoch"] for line in run.metrics if line["best"]][-1]
    test = load_data("digits", Request(two / "data"), limit_train=280, limit_test=45).test
    with torch.no_grad():
        predictions = run.model(test.floats()).argmax(1)
    expected = np.zeros((10, 10), dtype=int)
    np.add.at(expected, (test.labels.numpy(), predictions.numpy()), 1)
    assert counts(two, best) == expected.tolist()


def test_two_processes_reach_a_similar_loss(one, two):
    """The batches are the same, but batch norm sees half of each, so the losses are only close."""
    first, second = (pellucid.load_run(save).metrics for save in (one, two))
    assert second[2]["train_loss"] == pytest.approx(first[2]["train_loss"], rel=0.5)
    assert second[2]["train_loss"] < second[1]["train_loss"]


def wait_for(path, seconds=100):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def wait_for_lines(path, count, seconds=100):
    deadline = time.monotonic() + seconds
    while len(path.read_text().splitlines()) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(path.read_text().splitlines()) >= count


def children(process):
    """Return the process ids of the ranks that torchrun started, in rank order."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for number in listed:
        environment = Path(f"/proc/{number}/environ").read_text()
        rank = re.search(r"(?:^|\0)RANK=(\d+)", environment)
        if rank:
            ranks[int(rank.group(1))] = int(number)
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the processes")
@pytest.mark.timeout(900)
def test_run_of_two_is_resumed_however_it_ended(tmp_path):
    """It ends by SIGTERM, by the death of either process and by Ctrl-C; at last, one process alone resumes it."""
    save = tmp_path / "save"
    data = ("--dataset", noise(tmp_path), "--batch-size", 32, "--threads", 1)
    process = torchrun(*data, "--epochs", 3000, "--hooks", "none", "--save", save)
    wait_for(save / "models/last.ckpt")
    ranks = children(process)
    process.send_signal(signal.SIGTERM)
    ended = process.finish(60)
    assert not is_any_alive(ranks)
    assert f"--resume --save {save}" in ended.out
    assert read_json(save / "run.json")["status"] == "interrupted"

    for rank in (0, 1):
        process = resumed(save)
        ranks = children(process)
        os.kill(ranks[rank], signal.SIGKILL)
        ended = process.finish(60)
        assert ended.code != 0
        assert not is_any_alive(ranks)
        assert "Traceback" not in ended.err.replace("Traceback : Signal", "").split("torch/distributed")[0]
        assert ended.err.count("pellucid:") <= 1

    process = resumed(save)
    process.send_signal(signal.SIGINT)
    process.finish(180)
    assert read_json(save / "run.json")["status"] in ("interrupted", "running", "failed")

    lines = lines_of(save)
    # serial: with a report after each epoch, the signal comes before the last one
    process = Program("run", "--resume", "--serial", "--save", save)
    wait_for_lines(save / "metrics.jsonl", lines + 1)
    process.send_signal(signal.SIGINT)
    assert process.finish(60).code == 130
    epochs = [json.loads(line)["epoch"] for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(len(epochs)))


def noise(folder):
    """Write random images to a file, which is read sooner than scikit-learn is imported for the digits."""
    draws = np.random.default_rng(0)
    parts = {"train": 280, "test": 45}
    images = {f"x_{part}": draws.integers(0, 256, (count, 28, 28), np.uint8) for part, count in parts.items()}
    np.savez(folder / "images.npz", **images, **{f"y_{part}": np.arange(count) % 10 for part, count in parts.items()})
    return folder / "images.npz"


def resumed(save):
    """Resume a run with two processes, and wait until it goes on."""
    lines = lines_of(save)
    process = torchrun("--resume", "--save", save)
    wait_for_lines(save / "metrics.jsonl", lines + 2)
    return process


def lines_of(save):
    return len((save / "metrics.jsonl").read_text().splitlines())


def is_any_alive(numbers):
    return any(Path(f"/proc/{number}").exists() for number in numbers)


def test_failed_hook_gives_all_processes_the_same_exit_code(tmp_path, monkeypatch):
    (tmp_path / "nets_of_test.py").write_text(
        "from torch import nn\n"
        "from pellucid.hooks.projector import Projector\n"
        "def fail(self, scene): raise ValueError('broken hook')\n"
        "Projector.run = fail\n"
        "def net(classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    arguments = (*SMALL, "--epochs", 1, "--model", "nets_of_test:net", "--hooks", "projector,confusion_matrix")
    monkeypatch.chdir(tmp_path)
    ended = ranks_of("run", *arguments, "--save", tmp_path / "save")
    assert [rank.code for rank in ended] == [1, 1], ended
    assert [rank.out.count("hook projector failed at epoch 1") for rank in ended] == [1, 0]
    record = read_json(tmp_path / "save/run.json")
    assert record["status"] == "finished"
    assert [failed["epoch"] for failed in read_json(tmp_path / "save/manifest.json")["failures"]] == [0, 1]


INVALID = {
    ("--batch-size", "33"): "--batch-size 33 cannot be split evenly over 2 processes",
    ("--dataset", "folder:absent"): "absent",
    ("--classes", "eleven"): "no class 'eleven'",
}
"""Arguments and the error message of each."""


def test_invalid_arguments_are_reported_once(tmp_path):
    for arguments, message in INVALID.items():
        ended = ranks_of("run", *SMALL, *arguments, "--save", tmp_path / "save")
        assert all(rank.code != 0 for rank in ended), ended
        reported = [[line for line in rank.err.splitlines() if line.startswith("pellucid:")] for rank in ended]
        assert [len(of_rank) for of_rank in reported] == [1, 0], ended
        assert message in reported[0][0]


def free_ports(count):
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
