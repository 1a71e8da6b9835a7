"""Integrated gradients: quadrature, captum with the same nodes, polynomials, and the tolerance."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution.integrated_gradients import nodes
from pellucid.core.errors import ConfigError


@pytest.mark.filterwarnings("ignore")  # captum warns about setting gradients
@pytest.mark.parametrize(("steps", "baseline"), [(50, 0.0), (64, 0.5)])
def test_agrees_with_captum(network, images, targets, steps, baseline) -> None:
    integrated = captum.attr.IntegratedGradients(network)
    theirs = integrated.attribute(images, baselines=baseline, target=targets, n_steps=steps).detach()
    ours = create_analyzer("integrated_gradients", network, steps=steps, baseline=baseline).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("quadrature", ["gauss_legendre", "trapezoid"])
def test_quadrature_weights(quadrature) -> None:
    places, weights = map(torch.tensor, nodes(quadrature, 9))
    assert float(weights.sum()) == pytest.approx(1)
    assert float((weights * places**2).sum()) == pytest.approx(1 / 3, abs=5e-3)
    if quadrature == "gauss_legendre":
        assert float((weights * places**17).sum()) == pytest.approx(1 / 18, abs=1e-6)


class Cubic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x**3).flatten(1).cumsum(1)


def test_a_polynomial_is_integrated_exactly() -> None:
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    explanation = create_analyzer("integrated_gradients", Cubic(), steps=4).explain(images, 3, strict=True)
    torch.testing.assert_close(explanation.relevance, images**3)
    assert explanation.residual.abs().max() < 1e-12
    refined = create_analyzer("integrated_gradients", Cubic(), tolerance=0.01).explain(images, 3, strict=True)
    assert refined.residual.abs().max() < 1e-12
    assert (refined.evaluations < 12).all()


@pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning")  # too few points
def test_the_trapezoid_rule_by_hand(network, images, targets) -> None:
    baseline = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(4)).double()
    options = {"steps": 5, "quadrature": "trapezoid", "baseline": baseline}
    maps = create_analyzer("integrated_gradients", network, **options).analyze(images, targets)
    for image, target, relevance in zip(images, targets, maps, strict=True):
        total = torch.zeros_like(image)
        for place, weight in zip((0, 0.25, 0.5, 0.75, 1), (0.125, 0.25, 0.25, 0.25, 0.125), strict=True):
            leaf = (baseline + place * (image - baseline)).requires_grad_()
            total += weight * torch.autograd.grad(network(leaf[None])[0, target], leaf)[0]
        torch.testing.assert_close(relevance, total * (image - baseline), rtol=1e-9, atol=1e-14)


def test_a_tolerance_holds_for_each_image(network, images) -> None:
    analyzer = create_analyzer("integrated_gradients", network, steps=300, tolerance=0.02)
    explanation = analyzer.explain(images, strict=True)
    assert (explanation.residual.abs() <= explanation.allowed).all()
    change = (network(images) - network(0 * images)).gather(1, explanation.target[:, None])[:, 0].detach()
    size = torch.maximum(change.abs(), explanation.relevance.flatten(1).abs().sum(1) / 10)
    assert ((explanation.relevance.flatten(1).sum(1) - change).abs() <= 0.02 * size).all()


@pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning")  # too few points
def test_refinements_are_averaged_by_their_points(network, images, targets) -> None:
    """A tolerance of zero is never met: four points, then the five that remain of nine."""
    four, five = (
        create_analyzer("integrated_gradients", network, steps=steps).analyze(images, targets) for steps in (4, 5)
    )
    analyzer = create_analyzer("integrated_gradients", network, steps=9, tolerance=0)
    refined = analyzer.explain(images, targets)
    torch.testing.assert_close(refined.relevance, (4 * four + 5 * five) / 9)
    assert not torch.allclose(four, five)
    assert refined.evaluations.tolist() == [11] * 4  # and the image and the baseline
    # the classes share these two
    assert analyzer.explain(images, "all").evaluations.tolist() == [5 * 9 + 2] * 4


def test_a_path_of_one_point_is_refused(network) -> None:
    with pytest.raises(ConfigError, match=r"steps of IntegratedGradients is 1; expected a whole number \(at least 2\)"):
        create_analyzer("integrated_gradients", network, steps=1)
