"""Random numbers that depend only on a seed and a place in the program."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256

import numpy as np
import torch

from pellucid.core.isolation import exclusive

__all__ = ["derive_seed", "generator", "preserved_random_state", "seed_everything"]


def derive_seed(seed: int, *place: int | str) -> int:
    """Derive a seed in 0…2³²−1 for one place in the program: equal arguments give equal seeds, others unrelated ones.

    >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 3) != derive_seed(0, "train", 4)
    True
    """
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


@contextmanager
def preserved_random_state(*, torch_alone: bool = False) -> Iterator[None]:
    """Restore the global random states on exit, even if the body raises.

    `torch_alone` restores only torch's state, for a body that cannot draw from Python's and NumPy's; these take 0.1 ms,
    a tenth of the Jacobian of a small network. Holds the lock of `pellucid.core.isolation` throughout.
    """
    with exclusive():
        # fork_rng queries the devices, which takes as long as a forward pass of a small network
        devices = torch.random.fork_rng() if torch.cuda.is_initialized() else nullcontext()
        state = torch.get_rng_state()
        if not torch_alone:
            python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
        with devices:
            try:
                yield
            finally:
                torch.set_rng_state(state)
                if not torch_alone:
                    random.setstate(python)
                    np.random.set_state(numpy)  # noqa: NPY002
