"""Effective rank, against closed forms and the singular values of a float64 decomposition."""

import math

import numpy as np
import pytest
import torch

from pellucid.core.errors import ShapeError
from pellucid.diagnostics import effective_rank


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_svd(features: torch.Tensor) -> float:
    values = np.linalg.svd((features - features.mean(0)).numpy(), compute_uv=False)
    share = values[values > 1e-12] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize(("samples", "size"), [(50, 8), (8, 50), (20, 20), (2, 3), (40, 1)])
def test_is_the_entropy_of_the_singular_values(samples, size):
    for seed in range(5):
        features = random(samples, size, seed=seed) * torch.logspace(0, -3, size, dtype=torch.float64)
        found = effective_rank(features)
        assert found == pytest.approx(by_svd(features), rel=1e-5)
        assert 1 <= found <= min(samples - 1, size) + 1e-9


def test_rank_k_features_with_equal_singular_values_have_k():
    basis = torch.linalg.qr(random(12, 12))[0]
    for k in (1, 3, 7):
        signs = torch.cat([torch.eye(k, dtype=torch.float64), -torch.eye(k, dtype=torch.float64)])
        assert effective_rank(5 + signs @ basis[:k]) == pytest.approx(k, rel=1e-6)


def test_rotation_shift_and_scale_change_nothing():
    features, rotation = random(30, 9), torch.linalg.qr(random(9, 9, seed=1))[0]
    expected = effective_rank(features)
    for other in (
        features @ rotation,
        features + random(9, seed=2),
        -1e6 * features,
        1e-20 * features,
        features[:, [*range(8, -1, -1)]],
    ):
        assert effective_rank(other) == pytest.approx(expected, rel=1e-6)


def test_features_without_variation_and_faults():
    assert effective_rank(torch.full((9, 4), 1e8) + torch.rand(9, 4)) == 0
    assert effective_rank(torch.zeros(3, 2)) == 0
    assert effective_rank(torch.ones(1, 5)) == 0
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0, 1]])))
    for wrong in (torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 3, 4)):
        with pytest.raises(ShapeError, match=r"\(sample, feature\)"):
            effective_rank(wrong)
