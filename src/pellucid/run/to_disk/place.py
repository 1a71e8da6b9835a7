"""The place of a process among those of a job, from the environment variables of its launcher."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pellucid.core.errors import ConfigError

__all__ = ["Place"]

LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("a Kubernetes indexed job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", ""),
)
"""Launchers, and their environment variables for rank, number of processes and rank on the machine."""


@dataclass(frozen=True)
class Place:
    """The rank of a process. It decides which shards the process begins with, never what is computed."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine; selects the GPU."""

    @classmethod
    def found(cls, environment: Mapping[str, str] = os.environ) -> "Place":
        """Return the place given by environment variables; without them, that of a single process.

        Raises `ConfigError` for variables that contradict each other.

        >>> Place.found({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
        Place(rank=1, size=4, local_rank=1)
        >>> Place.found({})
        Place(rank=0, size=1, local_rank=0)
        """
        for launcher, rank, size, local in LAUNCHERS:
            # SLURM sets its variables in an interactive shell, too, so a rank alone does not make a job
            if rank in environment and size in environment:
                texts = (environment[rank], environment[size], environment.get(local, "0") if local else "0")
                if not all(text.isdecimal() for text in texts) or int(texts[0]) >= int(texts[1]):
                    raise ConfigError(
                        f"{rank} is {texts[0]!r} and {size} is {texts[1]!r}; expected a rank below the number of "
                        f"processes, as {launcher} sets them. Unset both to run a single process."
                    )
                return cls(*map(int, texts))
        return cls()
