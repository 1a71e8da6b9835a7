"""Random numbers that depend on a seed and a place in the program, and on nothing else."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from ctypes import string_at
from hashlib import sha256

import numpy as np
import torch

from pellucid.core.isolation import exclusive

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
def preserved_random_state(*, torch_alone: bool = False) -> Iterator[None]:
    """Hand the global random states back as they were, whatever the body draws or raises.

    With `torch_alone` only torch's: for a body that cannot draw from Python's and NumPy's, which cost up to a fifth of
    a millisecond. Holds the lock of `pellucid.core.isolation` throughout.
    """
    with exclusive():
        # asking for the devices costs as much as a small network's pass
        devices = torch.random.fork_rng() if torch.cuda.is_initialized() else nullcontext()
        state, hand_back_others = torch.get_rng_state(), None if torch_alone else _others()
        with devices:
            try:
                yield
            finally:
                torch.set_rng_state(state)
                if hand_back_others is not None:
                    hand_back_others()


def _others() -> Callable[[], None]:
    """What sets the states of Python and NumPy back to what they are now."""
    python, numpy, words = random.getstate(), np.random.get_state(legacy=False), _numpy_words()  # noqa: NPY002

    def hand_back() -> None:
        random.setstate(python)
        # only where it may have moved, since writing is slow; a normal number kept from the last draw is taken without
        # a move
        if words is None or numpy["has_gauss"] or _numpy_words() != words:
            np.random.set_state(numpy)  # noqa: NPY002

    return hand_back


def _numpy_words() -> bytes | None:
    """Words and position of NumPy's global generator; None where it is not the usual one."""
    generator = np.random.mtrand.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return None
    return string_at(generator.ctypes.state_address, 4 * 625)
