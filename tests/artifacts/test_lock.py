"""One run at a time."""

import os
import subprocess
import sys

import pytest

from pellucid.artifacts.lock import locked
from pellucid.core.errors import SaveError


def test_a_second_run_is_refused_and_told_which_process(tmp_path):
    code = f"""
import sys
from pathlib import Path
from pellucid.artifacts.lock import locked
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
    assert f"a run is already going on in {tmp_path} (process {os.getpid()} on " in refused.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"), locked(tmp_path / "file"):
        pass
