"""A store in other libraries: the example that computes a mean with Dask."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from architectures import required

import killed_process
from pellucid.run.to_disk.explain_to_disk import explain_to_disk

pytestmark = pytest.mark.integrations

EXAMPLE = Path(__file__).parents[2] / "examples" / "relevance_by_class.py"


def test_the_mean_relevance_per_class_with_dask(tmp_path: Path) -> None:
    required("xarray"), required("dask"), required("pandas")
    out = tmp_path / "maps.zarr"
    digits = killed_process.Digits()
    explain_to_disk(killed_process.model(), digits, out, methods=["gradient", "lrp.epsilon"], shard=64, threads=1)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLE), str(out)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines()[2:]]
    table = {int(label): [float(value) for value in values] for label, *values in rows if int(label) >= 0}
    import zarr

    group = zarr.open_group(out, mode="r")
    strength = np.abs(group["relevance"][:]).mean((2, 3, 4))
    label, is_readable = group["label"][:], group["error"][:] == ""
    assert not is_readable.all()
    assert sorted(table) == [0, 1, 2]
    for one, means in table.items():
        expected = strength[(label == one) & is_readable].astype(np.float64).mean(0)
        np.testing.assert_allclose(means, expected, rtol=1e-4)


def test_the_page_shows_the_example() -> None:
    code = EXAMPLE.read_text("utf-8").split('"""')[2].strip()
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    assert code in page.read_text("utf-8")
