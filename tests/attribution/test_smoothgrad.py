"""SmoothGrad and variants: their statistics have a closed form on a network with a linear gradient."""

import pytest
import torch

from pellucid import create_analyzer
from pellucid.core.seeding import generator

NAMES = ("smoothgrad", "smoothgrad.squared", "smoothgrad.variance")


def test_statistics_of_a_linear_gradient(squares) -> None:
    """With the gradient a ⊙ (x + σ n), n ~ N(0, 1): mean a x, mean square a² (x² + σ²), variance a² σ²."""
    x, a = torch.tensor([0.9, -1.0, 2.0, 0.5]).double(), squares.a[0].detach()
    sigma = 0.2 * (2 - -1)
    expected = dict(zip(NAMES, (a * x, a**2 * (x**2 + sigma**2), a**2 * sigma**2), strict=True))
    for name in NAMES:
        analyzer = create_analyzer(name, squares, samples=400, noise_share=0.2)
        found = analyzer.analyze(x.view(1, 1, 2, 2), 0).flatten()
        torch.testing.assert_close(found, expected[name], rtol=0.15, atol=0.02)
        torch.testing.assert_close(
            create_analyzer(name, squares, samples=5, noise_share=0).analyze(x.view(1, 1, 2, 2), 0).flatten(),
            {"smoothgrad": a * x, "smoothgrad.squared": (a * x) ** 2}.get(name, 0 * x),
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_statistic_over_noisy_copies_one_by_one(network, images, targets, name) -> None:
    source = generator(3, "smoothgrad")
    noise = [torch.randn(1, 10, 10, generator=source, dtype=torch.float64) for _ in range(4)]
    found = create_analyzer(name, network, samples=4, seed=3, noise_share=0.3).analyze(images, targets)
    for image, target, relevance in zip(images, targets, found, strict=True):
        spread = 0.3 * (image.max() - image.min())
        slopes = []
        for one in noise:
            leaf = (image + spread * one).requires_grad_()
            slopes.append(torch.autograd.grad(network(leaf[None])[0, target], leaf)[0])
        stack = torch.stack(slopes)
        statistic = {
            "smoothgrad": stack.mean(0),
            "smoothgrad.squared": stack.square().mean(0),
            "smoothgrad.variance": stack.var(0, correction=0),
        }[name]
        torch.testing.assert_close(relevance, statistic, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_noise_depends_on_the_seed(network, images, name) -> None:
    again, other = (create_analyzer(name, network, samples=4, seed=seed).analyze(images, 1) for seed in (0, 1))
    assert torch.equal(again, create_analyzer(name, network, samples=4).analyze(images, 1))
    assert not torch.allclose(again, other)


def test_a_variance_is_never_negative() -> None:
    """A linear network has a constant gradient, so only rounding remains."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    relevance = create_analyzer("smoothgrad.variance", model, samples=7).analyze(torch.rand(3, 1, 6, 6), 1)
    assert (relevance >= 0).all()
    assert relevance.max() < 1e-7
