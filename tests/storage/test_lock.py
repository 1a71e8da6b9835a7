"""Only one run at a time can use a save folder."""

import errno
import os
import subprocess
import sys

import pytest

from pellucid.core.errors import SaveError
from pellucid.storage.lock import locked


def test_second_run_is_refused_with_the_process_of_the_first(tmp_path):
    code = f"""
import sys
from pathlib import Path
from pellucid.storage.lock import locked
from pellucid.core.errors import SaveError
try:
    with locked(Path({str(tmp_path)!r})):
        pass
except SaveError as error:
    sys.exit(str(error))
"""
    with locked(tmp_path):
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"another run is using {tmp_path} (process {os.getpid()} on " in refused.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_run_in_the_same_process_is_told_to_close_the_first(tmp_path):
    refusal = r"this process itself is still using .* call close\(\)"
    with locked(tmp_path), pytest.raises(SaveError, match=refusal), locked(tmp_path):
        pass


def test_a_disk_that_has_become_read_only_does_not_prevent_the_release(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EROFS, "read-only file system")

    with monkeypatch.context() as context, locked(tmp_path):
        context.setattr("pathlib.Path.unlink", refuse)
    with locked(tmp_path):
        pass


def test_a_lock_file_that_is_a_link_is_refused_and_its_target_kept(tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / "save").mkdir()
    (tmp_path / "save" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(SaveError, match=r"\.lock is not a regular file"), locked(tmp_path / "save"):
        pass
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_in_the_folder_are_not_waited_for(tmp_path):
    (tmp_path / "one").mkdir()
    os.mkfifo(tmp_path / "one" / ".lock")
    with pytest.raises(SaveError, match=r"\.lock is not a regular file"), locked(tmp_path / "one"):
        pass
    with locked(tmp_path):
        (tmp_path / ".owner.json").unlink()
        os.mkfifo(tmp_path / ".owner.json")
        with pytest.raises(SaveError, match="unknown process"), locked(tmp_path):
            pass


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"), locked(tmp_path / "file"):
        pass
