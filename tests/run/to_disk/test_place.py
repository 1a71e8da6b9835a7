"""The place of a process among others, from its launcher's environment."""

import pytest

from pellucid.core.errors import ConfigError
from pellucid.run.to_disk.place import Place


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(3, 8, 1)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Place(2, 4, 0)),
        ({"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "16"}, Place(5, 16, 0)),
        # torchrun inside a SLURM job
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Place(1, 2, 0)),
        ({"RANK": "1"}, Place(0, 1, 0)),
    ],
)
def test_launchers(environment: dict[str, str], place: Place) -> None:
    assert Place.found(environment) == place


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}])
def test_contradictions_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="expected a rank below the number of processes"):
        Place.found(environment)
