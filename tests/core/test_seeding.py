"""Random numbers depend on the seed and the place, and on nothing else."""

import random

import numpy as np
import pytest
import torch

from pellucid.core.isolation import preserved_random_state
from pellucid.core.seeding import derive_seed, generator, seed_everything


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_places_have_seeds_of_their_own():
    seeds = {derive_seed(seed, place, step) for seed in range(5) for place in ("a", "b") for step in range(50)}
    assert len(seeds) == 500
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def test_global_state_is_handed_back_also_after_an_error():
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    with pytest.raises(RuntimeError, match="out"), preserved_random_state():
        seed_everything(9)
        draw()
        raise RuntimeError("out")
    assert draw() == expected


@pytest.mark.parametrize("drawn_before", [0, 1])
@pytest.mark.parametrize("drawn", [0, 1, 2, 700])
def test_numpys_kept_normal_number_is_handed_back(drawn_before, drawn):
    """Normal numbers come in pairs: the second is kept, and taken without a move of the generator."""
    np.random.seed(3)
    np.random.randn(drawn_before)
    expected = np.random.get_state(legacy=False)
    with preserved_random_state():
        np.random.randn(drawn)
    np.testing.assert_equal(np.random.get_state(legacy=False), expected)


def test_another_global_generator_of_numpys_is_handed_back():
    usual = np.random.mtrand.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        with preserved_random_state():
            first = np.random.rand()
        assert np.random.rand() == first
    finally:
        np.random.set_bit_generator(usual)
