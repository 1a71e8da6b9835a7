"""Whether a run is active, and the command that resumes it."""

import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.storage.lock import is_locked, locked
from pellucid.storage.resuming import actual_status, resume_command


def test_a_run_is_active_as_long_as_its_process_lives(tmp_path):
    program = (
        "import sys, pathlib\n"
        "from pellucid.storage.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        assert actual_status({"status": "running"}, tmp_path) == "running"
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / ".owner.json").exists()  # a killed process leaves it
    assert actual_status({"status": "running"}, tmp_path) == "interrupted"
    for status in ("finished", "failed", "interrupted"):
        assert actual_status({"status": status}, tmp_path) == status


def test_looking_at_the_lock_leaves_it_as_it_is(tmp_path):
    assert not is_locked(tmp_path)
    assert not any(tmp_path.iterdir())
    with locked(tmp_path):
        files = sorted(tmp_path.iterdir())
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)  # the first look has not released it
        assert sorted(tmp_path.iterdir()) == files
    assert not is_locked(tmp_path)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / ".lock").symlink_to("file")
    assert is_locked(tmp_path)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("runner.py --seed 3", "python runner.py"),
        ("'my code/runner.py'", "python 'my code/runner.py'"),
        ("/venv/bin/pellucid run", "pellucid run"),
        ("/venv/lib/pellucid/__main__.py run", "python -m pellucid run"),
        ("'unclosed", "pellucid run"),
        ("", "pellucid run"),
        (None, "pellucid run"),
        (["runner.py"], "pellucid run"),
    ],
)
def test_the_program_that_started_the_run_resumes_it(command, program):
    assert resume_command({"command": command}, Path("save")) == f"{program} --resume"


@pytest.mark.parametrize(
    ("model", "data", "trust"), [("cnn", "mnist", ""), ("a:b", "mnist", " --trust"), ("cnn", "a:b", " --trust")]
)
def test_functions_need_trust(model, data, trust):
    record = {"model": {"name": model}, "dataset": {"name": data}}
    assert resume_command(record, Path("/tmp/a b")) == f"pellucid run --resume --save '/tmp/a b'{trust}"
