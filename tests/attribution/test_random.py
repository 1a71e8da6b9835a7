"""The control `random`: standard normal numbers that depend only on the seed and the image's bytes."""

import pytest
import torch
from torch import nn

from pellucid import create_analyzer


def test_is_standard_normal() -> None:
    images = torch.rand(8, 1, 50, 50, generator=torch.Generator().manual_seed(0)).double()
    values = create_analyzer("random", nn.Flatten()).analyze(images).flatten().sort().values
    normal = torch.special.ndtr(values)  # Kolmogorov–Smirnov: the largest deviation from the distribution function
    gap = (normal - torch.linspace(0, 1, len(values)).double()).abs().max()
    assert float(gap) < 1.6 / len(values) ** 0.5


def test_depends_only_on_the_seed_and_the_image(network, images) -> None:
    noise = create_analyzer("random", network).analyze(images)
    torch.testing.assert_close(create_analyzer("random", network).analyze(images[2:3], 1), noise[2:3])
    assert torch.equal(create_analyzer("random", nn.Flatten()).analyze(images), noise)
    other = create_analyzer("random", network, seed=1).analyze(images)
    pairs = torch.stack([noise[0], noise[1], other[0], create_analyzer("random", network).analyze(images + 1e-6)[0]])
    correlations = torch.corrcoef(pairs.flatten(1)) - torch.eye(4)
    assert float(correlations.abs().max()) == pytest.approx(0, abs=0.4)
