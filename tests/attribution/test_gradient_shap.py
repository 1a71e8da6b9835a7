"""GradientSHAP: equal to captum for equal draws, exact for a linear model, and its expectation."""

import captum.attr
import pytest
import torch
from torch import nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import generator


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_agrees_with_captum_for_equal_draws(network, images, targets, noise, monkeypatch) -> None:
    """captum's own pass at each sample, with our reference, position and noise instead of its random ones."""
    references = torch.rand(5, 1, 10, 10, generator=torch.Generator().manual_seed(2)).double()
    total, source = torch.zeros_like(images), generator(7, "gradient_shap")
    module = captum.attr._core.gradient_shap
    for _ in range(6):
        index = int(torch.randint(5, (1,), generator=source))
        place = float(torch.rand(1, generator=source, dtype=torch.float64))
        noisy = images + noise * torch.randn(1, 10, 10, generator=source, dtype=torch.float64)
        monkeypatch.setattr(module.np.random, "uniform", lambda low, high, size, place=place: [place] * size)
        step = captum.attr._core.gradient_shap.InputBaselineXGradient(network)
        total += step.attribute(noisy, baselines=references[[index]].expand_as(images), target=targets)
    analyzer = create_analyzer("gradient_shap", network, references=references, samples=6, noise=noise, seed=7)
    torch.testing.assert_close(analyzer.analyze(images, targets), total / 6, rtol=1e-5, atol=1e-7)


def test_the_noise_averages_out_on_a_linear_model(counting) -> None:
    images, references = torch.rand(2, 1, 4, 4).double(), torch.rand(3, 1, 4, 4).double()
    analyzer = create_analyzer("gradient_shap", counting, references=references, samples=500, noise=0.3)
    weight = counting.linear.weight[1].detach().view(1, 4, 4)
    expected = weight * (images - references.mean(0))
    gap = (analyzer.analyze(images, 1) - expected) / weight
    assert float(gap.abs().max()) < 5 * (0.3**2 + 1 / 12) ** 0.5 / 500**0.5


@pytest.mark.slow
def test_without_noise_it_converges_to_expected_gradients(network, images) -> None:
    references = images.flip(0) / 2
    options = {"references": references, "samples": 400}
    shap = create_analyzer("gradient_shap", network, noise=0, **options).analyze(images[:1], 1)
    expected = create_analyzer("expected_gradients", network, **options).analyze(images[:1], 1)
    assert float((shap - expected).norm() / expected.norm()) < 0.2


def test_fit_takes_references_from_data_and_tokens(network, images) -> None:
    fitted = create_analyzer("gradient_shap", network, samples=3).fit([images])
    given = create_analyzer("gradient_shap", network, samples=3, references=images)
    assert torch.equal(fitted.analyze(images, 1), given.analyze(images, 1))
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert create_analyzer("gradient_shap", model, samples=3).fit([ids]).analyze(ids, 1).shape == (2, 3, 4)


def test_invalid_options_are_refused(network, images) -> None:
    with pytest.raises(ConfigError, match="the option noise of GradientShap is -1"):
        create_analyzer("gradient_shap", network, noise=-1)
    with pytest.raises(ConfigError, match="'gradient_shap' learns from data"):
        create_analyzer("gradient_shap", network).analyze(images)
