"""scikit-learn's digits, upscaled and split."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from pellucid.data import DATASETS, Request

digits = DATASETS["digits"]


def test_counts_types_and_defaults() -> None:
    raw = digits(Request(Path()))
    assert (len(raw.train), len(raw.test)) == (1438, 359)
    assert raw.train.image_shape == (1, 28, 28)
    assert raw.train.pixels.dtype == torch.uint8
    assert int(raw.train.pixels.max()) == 255
    assert (raw.classes, raw.title) == (tuple("0123456789"), "scikit-learn digits")
    assert (raw.shift_share, raw.default_epochs) == (1 / 28, 10)


def test_one_fifth_of_each_class_is_for_testing() -> None:
    raw = digits(Request(Path()))
    sizes = torch.from_numpy(load_digits().target).bincount()
    assert torch.equal(raw.train.labels.bincount() + raw.test.labels.bincount(), sizes)
    assert ((raw.test.labels.bincount() - sizes / 5).abs() < 1).all()


def test_at_size_8_they_equal_the_originals() -> None:
    raw = digits(Request(Path(), image_size=8))
    pixels = torch.cat([raw.train.pixels, raw.test.pixels]).flatten(1).float().mul(16 / 255).round().long()
    expected = torch.from_numpy(load_digits().data).long()
    assert sorted(pixels.tolist()) == sorted(expected.tolist())


def test_upscaled_digits_show_the_same_strokes() -> None:
    small, large = digits(Request(Path(), image_size=8)), digits(Request(Path(), image_size=32))
    assert torch.equal(small.test.labels, large.test.labels)
    assert F.mse_loss(F.avg_pool2d(large.test.floats(), 4), small.test.floats()).sqrt() < 0.1
    assert large.test.floats().mean().item() == pytest.approx(small.test.floats().mean().item(), rel=0.03)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_split_depends_on_the_seed(seed: int) -> None:
    first, again, other = (digits(Request(Path(), seed=each)).test for each in (seed, seed, 0))
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
