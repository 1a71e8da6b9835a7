"""Random projections: their error, their seeds, and blocks that need no whole matrix."""

import math

import pytest
import torch

from pellucid.diagnostics import Projection, _projection
from pellucid.errors import ConfigError, ShapeError

KINDS = ("sparse", "rademacher", "gaussian")


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_unbiased_with_the_stated_error(kind: str) -> None:
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 400, generator=random, dtype=torch.float64)
    pairs = {"orthogonal": (first, second), "equal": (first, first), "similar": (first, first + 0.5 * second)}
    errors: dict[str, list[float]] = {name: [] for name in pairs}
    for seed in range(200):
        sketch = Projection(50, kind=kind, seed=seed).sketch(400, like=first)
        for name, (one, other) in pairs.items():
            a, b = sketch(torch.stack([one, other]))
            errors[name].append(float((a @ b - one @ other) / (one.norm() * other.norm())))
    bound = Projection(50).standard_error
    assert bound == math.sqrt(2 / 50)
    for name, values in errors.items():
        measured = torch.tensor(values)
        assert abs(float(measured.mean())) < 4 * float(measured.std()) / 14
        assert float(measured.std()) < 1.15 * bound  # 200 draws estimate a deviation to about 5%
        cosine = torch.nn.functional.cosine_similarity(*pairs[name], 0)
        # the exact variance is (1 + cos²) / k for normals; signs take away a little
        assert float(measured.std()) == pytest.approx(math.sqrt((1 + float(cosine) ** 2) / 50), rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_places_determine_the_projection(kind: str) -> None:
    gradients = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))

    def projected(seed: int, *place: int) -> torch.Tensor:
        return Projection(20, kind=kind, seed=seed).sketch(300, *place, like=gradients)(gradients)

    assert torch.equal(projected(0, 1), projected(0, 1))
    assert not torch.equal(projected(0, 1), projected(0, 2))
    assert not torch.equal(projected(0, 1), projected(1, 1))
    torch.testing.assert_close(
        projected(0, 1)[1:], Projection(20, kind=kind).sketch(300, 1, like=gradients)(gradients[1:])
    )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_blocks_drawn_again_equal_a_matrix_that_is_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    kept = Projection(8, kind=kind).sketch(5000, like=gradients)(gradients)
    monkeypatch.setattr(_projection, "MOST_KEPT", 0)
    again = Projection(8, kind=kind).sketch(5000, like=gradients)
    assert torch.equal(again(gradients), kept)
    matrix = again(torch.eye(5000))
    torch.testing.assert_close(gradients @ matrix, kept, rtol=1e-4, atol=1e-4)
    if kind == "rademacher":
        assert set((matrix * math.sqrt(8)).round(decimals=4).unique().tolist()) == {-1.0, 1.0}


def test_a_small_network_is_not_projected() -> None:
    gradients = torch.randn(3, 10)
    projection = Projection(10)
    assert torch.equal(projection.sketch(10, like=gradients)(gradients), gradients)
    assert projection.error_for(10) == 0
    assert projection.error_for(11) == projection.standard_error


def test_invalid_projections_are_explained() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Projection(0)
    with pytest.raises(ShapeError, match=r"\(sample, 20\)"):
        Projection(8).sketch(20, like=torch.ones(1))(torch.ones(2, 30))
