"""Random numbers that depend on a seed and a place in the program, and on nothing else."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch

__all__ = ["derive_seed", "generator", "preserved_random_state", "seed_everything"]


def derive_seed(seed: int, *place: int | str) -> int:
    """A seed in 0…2³²−1 for one place of the program: equal arguments give equal seeds, others unrelated ones.

    >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 3) != derive_seed(0, "train", 4)
    True
    """
    return int.from_bytes(sha256(repr((seed, *place)).encode()).digest()[:4], "little")


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator seeded for one place of the program."""
    return torch.Generator().manual_seed(derive_seed(seed, *place))


def seed_everything(seed: int) -> None:
    """Seed the global random states of Python, NumPy and torch (all devices in use)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (a user's model may draw from the global state)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would else queue a call, with a stack trace, at every step
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Hand the global random states back as they were, whatever the body draws or raises."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices: list[int] | None = (
        None if torch.cuda.is_initialized() else []
    )  # asking for devices costs more than a small network's pass
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
