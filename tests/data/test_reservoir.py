"""The sample of a stream is uniform, stratified and bounded."""

from unittest.mock import Mock

import pytest
import torch

from pellucid.core.seeding import generator
from pellucid.data._reservoir import Reservoir


@pytest.mark.parametrize("length", [44, 60])
def test_each_item_is_taken_equally_often(length: int) -> None:
    """Wherever it stands: 60 ends in the middle of a block of 8, 44 also has an incomplete merged one."""
    taken = torch.zeros(length)
    seeds = 1200
    for seed in range(seeds):
        reservoir = Reservoir[int](12, generator(seed, "test"))
        for number in range(length):
            reservoir.add(0, lambda number=number: number)
        taken += torch.tensor(reservoir.taken()).bincount(minlength=length)
    share = 1 / reservoir.block
    mean, deviation = seeds * share, (seeds * share * (1 - share)) ** 0.5
    assert ((taken - mean).abs() < 4.5 * deviation).all()
    # the squared deviations of independent items follow a chi-squared distribution
    assert ((taken - mean) / deviation).square().sum() < 1.8 * length


def test_each_class_has_its_share_and_none_is_lost() -> None:
    reservoir = Reservoir[int](40, generator(0, "test"))
    labels = torch.tensor([0] * 700 + [1] * 290 + [2] * 9 + [3]).tolist()
    for label in labels:
        reservoir.add(label, lambda label=label: label)
    counts = torch.tensor(reservoir.taken()).bincount(minlength=4).tolist()
    assert all(abs(count - size / reservoir.block) <= 1 for count, size in zip(counts, (700, 290, 9, 1), strict=True))
    assert min(counts) == 1
    assert 20 - 4 <= sum(counts) <= 40


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_memory_is_bounded_for_any_number_of_classes(capacity: int) -> None:
    reservoir = Reservoir[int](capacity, generator(0, "test"))
    for number in range(300):
        reservoir.add(number % 50, lambda number=number: number)
        assert sum(map(len, reservoir._held)) <= capacity
    assert len(reservoir.taken()) >= capacity // 4


def test_a_short_stream_is_held_entirely() -> None:
    reservoir = Reservoir[int](10, generator(0, "test"))
    for number in range(10):
        reservoir.add(number % 3, lambda number=number: number)
    assert sorted(reservoir.taken()) == list(range(10))


def test_items_that_are_not_held_are_not_made() -> None:
    reservoir = Reservoir[int](4, generator(0, "test"))
    make = Mock(return_value=0)
    for _ in range(1000):
        reservoir.add(0, make)
    assert make.call_count < 100
