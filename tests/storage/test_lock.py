"""Only one run at a time can use a save folder."""

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


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"), locked(tmp_path / "file"):
        pass
