"""Random calls of the library, most with unsuitable arguments, end in an answer or in one of pellucid's own errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid


def outcome(seed: int, count: int) -> dict[str, object]:
    program = Path(__file__).with_name("library_calls.py")
    source = str(Path(pellucid.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(program), str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 150), *[pytest.param(seed, 1000, marks=pytest.mark.slow) for seed in (1, 2)]]
)
def test_random_calls_raise_no_foreign_error(seed, count) -> None:
    found = outcome(seed, count)
    assert found["foreign"] == []
    results = found["results"]
    assert results["answered"] + results["refused"] == count
    # neither everything nor nothing is refused
    assert min(results["answered"], results["refused"]) > count / 10
