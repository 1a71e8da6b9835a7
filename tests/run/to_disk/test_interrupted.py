"""Interrupted jobs: killed processes, a full disk, a store that vanishes, Ctrl-C and other settings."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import killed_process
from killed_process import COUNT, SHARD, contents, explain, marks
from pellucid.cli import main
from pellucid.errors import SaveError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]
SHARDS = -(-COUNT // SHARD)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test as the only process of a job; what it sets is undone."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a job that nothing interrupts."""
    out = tmp_path_factory.mktemp("undisturbed") / "maps.zarr"
    explain(out)
    return out


@pytest.fixture(scope="module")
def processes() -> Any:
    """A context whose processes start in a moment, since they are forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pellucid.run.to_disk.explain_to_disk"])
    return context


def wait_for_marks(out: Path, count: int, alive: list[Any]) -> None:
    until = time.monotonic() + 60
    while marks(out) < count and any(one.is_alive() for one in alive):
        assert time.monotonic() < until, f"{marks(out)} of {count} shards are complete after a minute"
        time.sleep(0.002)


def test_a_killed_job_finished_by_other_processes_equals_an_undisturbed_one(
    processes: Any, tmp_path: Path, undisturbed: Path
) -> None:
    draws, out, kills = random.Random(0), tmp_path / "maps.zarr", 4
    for kill in range(kills):
        size = draws.randint(1, 3)
        alive = [processes.Process(target=explain, args=(out, rank, size, 0.004)) for rank in range(size)]
        for one in alive:
            one.start()
        # between two marks, anywhere in reading, explaining and writing
        wait_for_marks(out, 1 + kill * SHARDS // (kills + 2) + draws.randint(0, 3), alive)
        time.sleep(draws.random() * 0.05)
        for one in alive:
            one.kill()
            one.join()
        assert {one.exitcode for one in alive} == {-signal.SIGKILL}
    assert 0 < marks(out) < SHARDS
    explain(out)
    assert contents(out) == contents(undisturbed)


def test_torchrun_restarts_a_rank_that_dies(tmp_path: Path, undisturbed: Path) -> None:
    out, died = tmp_path / "maps.zarr", tmp_path / "died"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    result = subprocess.run(
        [sys.executable, *launcher, killed_process.__file__, str(out), "1", str(died)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert died.exists()
    assert "exitcode: -9" in result.stderr
    assert contents(out) == contents(undisturbed)


def arrays(folder: Path) -> Path:
    """Write the digits to a file for the command line."""
    digits = killed_process.Digits()
    np.savez(folder / "digits.npz", images=(digits.pixels.numpy() * 255).astype(np.uint8), labels=digits.labels.numpy())
    return folder / "digits.npz"


def command(data: Path, out: Path, *flags: str) -> list[str]:
    return [
        "explain", "--model", "killed_process:model", "--dataset", str(data), "--methods", "gradient,lrp.epsilon",
        "--shard", "8", "--threads", "1", "--out", str(out), *flags,
    ]  # fmt: skip


def test_a_full_disk_is_reported_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    data = arrays(tmp_path)
    try:
        assert main(command(data, disk / "maps.zarr")) == 2
        output = capsys.readouterr()
        complete = marks(disk / "maps.zarr")
        assert 0 < complete < SHARDS
        assert "the disk is full; free some space" in " ".join(output.err.split())
        assert f"{complete} of {SHARDS} shards are complete" in " ".join(output.out.split())
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert main(command(data, disk / "maps.zarr")) == 0
        assert main(command(data, tmp_path / "maps.zarr")) == 0
        assert contents(disk / "maps.zarr") == contents(tmp_path / "maps.zarr")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_store_that_vanishes_ends_the_job_and_is_resumed(tmp_path: Path, undisturbed: Path) -> None:
    out, away = tmp_path / "maps.zarr", tmp_path / "away.zarr"

    def move_away(index: int) -> None:
        if index == COUNT // 2:
            out.rename(away)

    with pytest.raises(SaveError, match="vanished or been replaced.*repeat the call to continue"):
        explain(out, on_read=move_away)
    assert not out.exists(), "nothing may be written where the store was"
    away.rename(out)
    assert 0 < marks(out) < SHARDS
    explain(out)
    assert contents(out) == contents(undisturbed)


def heed() -> None:
    """Reset SIGINT to its default, which a shell may have changed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_exits_with_130_and_the_state(tmp_path: Path) -> None:
    out, data = tmp_path / "maps.zarr", tmp_path / "many.npz"
    images = np.random.default_rng(0).integers(0, 256, (4000, 1, 8, 8), np.uint8)
    np.savez(data, images=images, labels=np.arange(4000) % 3)
    paths = [str(Path(killed_process.__file__).parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pellucid", *command(data, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        preexec_fn=heed,
    )
    while marks(out) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"{marks(out)} of 500 shards are complete" in " ".join(output.split())
    assert "repeat the command to continue" in " ".join(output.split())
    assert "interrupted." in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"methods": ["gradient"]}, r"methods\.lrp\.epsilon"),
        ({"target": 1}, "target is"),
        ({"dtype": "float16"}, "dtype is"),
        ({"shard": 16}, "shard is 8 there and 16 here"),
        ({"limit": 100}, "images is 300 there and 100 here"),
    ],
)
def test_two_jobs_with_different_settings_are_rejected(
    options: dict[str, Any], difference: str, tmp_path: Path, undisturbed: Path
) -> None:
    out = tmp_path / "maps.zarr"
    shutil.copytree(undisturbed, out)
    with pytest.raises(SaveError, match=f"begun with other settings: .*{difference}"):
        explain(out, **options)
    assert contents(out) == contents(undisturbed)
