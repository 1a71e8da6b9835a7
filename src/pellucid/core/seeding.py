"""Random numbers that depend only on a seed and a place in the program."""

import random
from hashlib import sha256

import numpy as np
import torch

__all__ = ["derive_seed", "generator", "seed_everything"]


def derive_seed(seed: int, *place: int | str) -> int:
    """Derive a seed in 0…2³²−1 for one place in the program: equal arguments give equal seeds, others unrelated ones.

    >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 3) != derive_seed(0, "train", 4)
    True
    """
    # repr keeps (1, 23) and (12, 3) apart; four bytes, because NumPy's global seed must be below 2³²
    return int.from_bytes(sha256(repr((seed, *place)).encode()).digest()[:4], "little")


def generator(seed: int, *place: int | str) -> torch.Generator:
    """Return a CPU generator seeded for one place in the program."""
    return torch.Generator().manual_seed(derive_seed(seed, *place))


def seed_everything(seed: int) -> None:
    """Seed the global random states of Python, NumPy and torch (on all devices in use)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (a user's model may draw from the global state)
    torch.default_generator.manual_seed(seed)
    # before CUDA is initialized, torch.cuda.manual_seed_all only queues a call and records a stack trace, at every step
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
