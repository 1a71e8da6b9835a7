"""Principal components, compared with scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pellucid.densities import _components
from pellucid.densities._components import principal_components


@pytest.mark.parametrize(("count", "size", "largest"), [(300, 20, 2000), (12, 40, 2000), (40, 60, 50), (15, 60, 20)])
def test_they_equal_those_of_another_library(
    count: int, size: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_components, "LARGEST_MATRIX", largest)
    draws = torch.Generator().manual_seed(count)
    points = torch.randn(count, size, generator=draws) @ torch.diag(1 / (1 + torch.arange(size))) + 3
    found = principal_components(points, 8)
    expected = PCA(8, svd_solver="full").fit(points.double().numpy())
    np.testing.assert_allclose(found.variances, expected.explained_variance_, rtol=1e-4)
    # up to the sign
    cosines = (found.directions.double().numpy() * expected.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(found.coordinates(points).mean(0), 0, atol=1e-5)


def test_large_images_use_the_first_points_for_the_directions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_components, "LARGEST_MATRIX", 30)
    points = torch.randn(100, 50, generator=torch.Generator().manual_seed(0)) @ torch.diag(1 / (1 + torch.arange(50)))
    found = principal_components(points, 5)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mean, points.mean(0))
    torch.testing.assert_close(found.variances, ((points - points.mean(0)) @ found.directions.T).var(0))
    best = torch.linalg.eigvalsh(points.T.cov())[-5:].sum()
    assert 0.9 * best < found.variances.sum() < best


@pytest.mark.parametrize("largest", [2000, 3])
def test_points_without_variance_have_orthonormal_directions(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_components, "LARGEST_MATRIX", largest)
    found = principal_components(torch.ones(5, 4), 10)
    assert len(found.directions) == (4 if largest == 2000 else 2)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(len(found.directions)))
    assert found.variances.max() < 1e-10
