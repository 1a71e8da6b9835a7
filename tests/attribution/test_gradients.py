"""The gradient family against captum, and against obvious derivations, in float64."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution.integrated_gradients import nodes

AGREEMENT = 1e-6


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, 5)).double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 1, 14, 14, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("name", "options", "theirs", "arguments"),
    [
        ("gradient", {}, captum.attr.Saliency, {"abs": False}),
        ("Saliency", {}, captum.attr.Saliency, {}),
        ("input_x_gradient", {}, captum.attr.InputXGradient, {}),
        ("integrated_gradients", {"steps": 50}, captum.attr.IntegratedGradients, {"n_steps": 50}),
        ("integrated_gradients", {"baseline": 0.5}, captum.attr.IntegratedGradients, {"n_steps": 64, "baselines": 0.5}),
        ("deconvnet", {}, captum.attr.Deconvolution, {}),
        ("guided_backprop", {}, captum.attr.GuidedBackprop, {}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # captum warns that it sets hooks and gradients
def test_agrees_with_captum(network, images, name, options, theirs, arguments) -> None:
    targets = torch.tensor([0, 1, 4, 2])
    expected = theirs(network).attribute(images.clone().requires_grad_(), target=targets, **arguments).detach()
    assert relative(create_analyzer(name, network, **options).analyze(images, targets), expected) < AGREEMENT


def test_the_gradient_is_the_slope_of_the_logit(network, images) -> None:
    analyzer = create_analyzer("gradient", network)
    nudge = torch.zeros_like(images)
    nudge[:, 0, 6, 7] = 1e-6
    slope = (network(images + nudge) - network(images - nudge))[:, 2] / 2e-6
    torch.testing.assert_close(analyzer.analyze(images, 2)[:, 0, 6, 7], slope.detach(), rtol=1e-6, atol=1e-8)
    difference = create_analyzer("gradient.baseline", network, baseline=0.5).analyze(images, 2)
    torch.testing.assert_close(difference, analyzer.analyze(images, 2) - analyzer.analyze(0 * images + 0.5, 2))
    torch.testing.assert_close(
        create_analyzer("sensitivity", network).analyze(images, 2), analyzer.analyze(images, 2) ** 2
    )


def test_smoothgrad_is_the_mean_over_noisy_copies_drawn_from_the_seed(network, images) -> None:
    gradient = create_analyzer("gradient", network)
    noise = torch.randn(600, 1, 14, 14, generator=torch.Generator().manual_seed(5)).double()
    spread = (images[0].max() - images[0].min()) * 0.15
    many = gradient.analyze(images[:1] + spread * noise, 1)
    for name, expected in (
        ("smoothgrad", many.mean(0)),
        ("smoothgrad.squared", many.square().mean(0)),
        ("smoothgrad.variance", many.var(0)),
    ):
        ours = create_analyzer(name, network, samples=250).analyze(images[:1], 1)[0]
        assert float((ours - expected).norm() / expected.norm()) < 0.2
        again, other = (create_analyzer(name, network, samples=4, seed=seed).analyze(images, 1) for seed in (0, 1))
        assert torch.equal(again, create_analyzer(name, network, samples=4).analyze(images, 1))
        assert not torch.allclose(again, other)


@pytest.mark.parametrize("quadrature", ["gauss_legendre", "trapezoid"])
def test_quadratures_weigh_correctly(quadrature) -> None:
    places, weights = map(torch.tensor, nodes(quadrature, 9))
    assert float(weights.sum()) == pytest.approx(1)
    assert float((weights * places**2).sum()) == pytest.approx(1 / 3, abs=5e-3)
    if quadrature == "gauss_legendre":
        assert float((weights * places**17).sum()) == pytest.approx(1 / 18, abs=1e-6)


def test_integrated_gradients_of_a_polynomial_are_exact() -> None:
    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**3).flatten(1).cumsum(1)

    images = torch.rand(3, 1, 2, 2).double()
    explanation = create_analyzer("integrated_gradients", Cubic(), steps=4).explain(images, 3, strict=True)
    torch.testing.assert_close(explanation.relevance, images**3)
    assert explanation.residual.abs().max() < 1e-12
    refined = create_analyzer("integrated_gradients", Cubic(), tolerance=0.01).explain(images, 3, strict=True)
    assert refined.residual.abs().max() < 1e-12
    assert (refined.evaluations < 12).all()


def test_a_tolerance_holds_for_each_image(network, images) -> None:
    explanation = create_analyzer("integrated_gradients", network, steps=600, tolerance=0.01).explain(
        images, strict=True
    )
    assert (explanation.residual.abs() <= explanation.allowed).all()


def test_expected_gradients_near_the_mean_difference(network, images) -> None:
    references = torch.rand(40, 1, 14, 14, generator=torch.Generator().manual_seed(3)).double()
    analyzer = create_analyzer("expected_gradients", network, samples=300).fit(
        [references[:20], (references[20:], None)]
    )
    expected = (network(images) - network(references).mean(0))[:, 1].detach()
    torch.testing.assert_close(analyzer.analyze(images, 1).flatten(1).sum(1), expected, rtol=0.15, atol=0.05)


def test_simple_taylor_finds_the_nearest_zero() -> None:
    class Parabola(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1, keepdim=True)
            return torch.cat([mean**2 - 0.25, mean + 3], 1)

    images = torch.tensor([0.75, 0.25]).double()[:, None, None, None].expand(2, 1, 2, 2)
    explanation = create_analyzer("simple_taylor", Parabola()).explain(images, 0)
    assert explanation.details["root_found"].tolist() == [True, False]
    # image 0: x̃ = 0.5, slope 1, distance 0.25; image 1: no zero on the way to 0, whose slope is 0
    torch.testing.assert_close(
        explanation.relevance.flatten(1).sum(1), torch.tensor([0.25, 0.0]).double(), rtol=1e-5, atol=1e-5
    )
    assert any("baseline" in note for note in explanation.notes)


def test_controls_owe_nothing_to_the_network(network, images) -> None:
    torch.testing.assert_close(create_analyzer("input", network).analyze(images), images)
    noise = create_analyzer("random", network).analyze(images)
    torch.testing.assert_close(create_analyzer("random", network).analyze(images[2:3]), noise[2:3])
    ramp = torch.arange(6.0).expand(1, 2, 5, 6) / 8
    edges = create_analyzer("sobel", nn.Flatten()).analyze(ramp)
    torch.testing.assert_close(edges[..., 1:-1], torch.ones(1, 2, 5, 4))  # 8 · 1/8
    assert edges.shape == ramp.shape
