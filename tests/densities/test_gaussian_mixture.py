import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as OtherMixture

from pellucid.core.errors import DataError, ShapeError
from pellucid.densities import gaussian_mixture, held_out
from pellucid.densities.gaussian_mixture import GaussianMixture, _log_densities, _maximised, _responsibilities
from pellucid.training.descent import descend

CPU = torch.device("cpu")


def fit(pixels: torch.Tensor, seed: int = 0) -> GaussianMixture:
    return GaussianMixture.fit(pixels, seed=seed, minimise=descend, device=CPU)


def test_the_log_density_equals_that_of_full_gaussians(pixels: torch.Tensor) -> None:
    """Each component is a Gaussian over all pixels with covariance Vᵀ Σ V + σ² (1 − Vᵀ V)."""
    mixture = fit(pixels)
    images = pixels[:7].double() / 255
    v, noise = mixture.directions.double().numpy(), float(mixture.noise)
    outside = noise * (np.eye(36) - v.T @ v)
    terms = []
    for log_weight, mean, whitening in zip(mixture.log_weights, mixture.means, mixture.whitening, strict=True):
        root = np.linalg.inv(whitening.double().numpy())
        covariance = v.T @ (root.T @ root) @ v + outside
        center = mean.double().numpy() @ v + mixture.mean.double().numpy()
        full = multivariate_normal(center, (covariance + covariance.T) / 2)
        terms.append(float(log_weight) + full.logpdf(images.flatten(1).numpy()))
    expected = np.logaddexp.reduce(terms)
    np.testing.assert_allclose(mixture.log_density(images).numpy(), expected, rtol=1e-5)


def test_expectation_maximization_equals_that_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without borrowed images, both maximize the same likelihood; from the same start, they take the same steps."""
    monkeypatch.setattr(gaussian_mixture, "BORROWED_IMAGES", 0)
    draws = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(4, 5, generator=draws)
    points = centers.repeat(150, 1) + torch.randn(600, 5, generator=draws) @ torch.randn(5, 5, generator=draws)
    training, others = points[:400], points[400:]
    parts = _maximised(training, torch.rand(400, 4, generator=draws).softmax(1))
    other = OtherMixture(
        4,
        max_iter=7,
        tol=0,
        reg_covar=gaussian_mixture.SMALLEST_VARIANCE,
        weights_init=parts[0].double().exp().numpy(),
        means_init=parts[1].double().numpy(),
        precisions_init=(parts[2] @ parts[2].mT).double().numpy(),
    )
    with pytest.warns(ConvergenceWarning):
        other.fit(training.double().numpy())
    for _ in range(7):
        parts = _maximised(training, _responsibilities(training, parts))
    np.testing.assert_allclose(parts[0].exp(), other.weights_, rtol=1e-3)
    np.testing.assert_allclose(parts[1], other.means_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((parts[2] @ parts[2].mT), other.precisions_, rtol=1e-3, atol=1e-3)
    found = _log_densities(others, parts).logsumexp(1)
    np.testing.assert_allclose(found, other.score_samples(others.double().numpy()), rtol=1e-4)


def test_it_predicts_held_out_images_better_than_another_library(pixels: torch.Tensor) -> None:
    """Compare with scikit-learn's mixture of as many components on all pixels, which borrows no images."""
    training, others = pixels[:300].flatten(1) / 255, pixels[300:].flatten(1) / 255
    mixture = fit(pixels[:300])
    other = OtherMixture(len(mixture.means), reg_covar=1e-3, random_state=0).fit(training.double().numpy())
    expected = other.score_samples(others.double().numpy()).mean()
    assert mixture.log_density(pixels[300:].float() / 255).mean() > expected


def test_borrowed_images_average_the_covariances(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    groups = torch.nn.functional.one_hot((torch.arange(50) >= 10).long(), 2).float()
    monkeypatch.setattr(gaussian_mixture, "BORROWED_IMAGES", 30)
    _, _, whitening = _maximised(points, groups)
    parts = [points[:10], points[10:]]
    covariances = [part.T.cov(correction=0) for part in parts]
    within = (10 * covariances[0] + 40 * covariances[1]) / 50
    for count, covariance, factor in zip((10, 40), covariances, whitening, strict=True):
        expected = (count * covariance + 30 * within) / (count + 30) + 1e-3 * torch.eye(3)
        torch.testing.assert_close(torch.linalg.inv(factor @ factor.T), expected, rtol=1e-4, atol=1e-5)


def test_it_integrates_to_one_in_one_dimension() -> None:
    pixels = (torch.rand(300, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 255).byte()
    mixture = fit(pixels)
    axis = torch.linspace(-2, 3, 501, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 1, 1, 2)
    assert mixture.log_density(grid).exp().sum() * 0.01**2 == pytest.approx(1, abs=1e-3)


def test_data_are_more_probable_than_noise_and_bits_per_dim_match_nats(pixels: torch.Tensor) -> None:
    mixture, noise = fit(pixels[:300]), torch.rand(100, 1, 6, 6)
    assert mixture.log_density(pixels[300:].float() / 255).min() > mixture.log_density(noise).max()
    result = held_out(mixture, pixels[300:])
    assert result.images == 100
    assert result.bits_per_dim == pytest.approx(8 - result.nats / (36 * math.log(2)))
    assert math.log2(60) < result.bits_per_dim < 7  # the noise alone has log₂ 60 = 5.9 bits


def test_images_are_scored_independently_and_differentiably(pixels: torch.Tensor) -> None:
    mixture, images = fit(pixels), (pixels[:5].double() / 255).requires_grad_()
    together = mixture.log_density(images)
    alone = torch.cat([mixture.log_density(image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert torch.autograd.gradcheck(mixture.log_density, images[:1].detach().requires_grad_())


def test_the_state_restores_it_and_equal_seeds_give_equal_bits(pixels: torch.Tensor) -> None:
    mixture, images = fit(pixels), pixels[:5].float() / 255
    restored = GaussianMixture.from_state(mixture.state())
    assert torch.equal(restored.log_density(images), mixture.log_density(images))
    assert torch.equal(fit(pixels).log_density(images), mixture.log_density(images))
    assert restored.image_shape == (1, 6, 6)


def test_likely_images_are_in_range(pixels: torch.Tensor) -> None:
    likely = fit(pixels).likely(3, 0)
    assert 1 <= len(likely) <= 3
    assert likely.shape[1:] == (1, 6, 6)
    assert 0 <= likely.min() <= likely.max() <= 1


@pytest.mark.parametrize("count", [2, 3, 39])
def test_a_few_images_suffice(count: int, pixels: torch.Tensor) -> None:
    assert torch.isfinite(fit(pixels[:count]).log_density(pixels[:4].float() / 255)).all()


def test_invalid_images_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="to 1 images; give at least 2"):
        fit(pixels[:1])
    with pytest.raises(DataError, match=r"3×65×65 have 12,675 values.*--image-size 64"):
        fit(torch.zeros(4, 3, 65, 65, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"got images of shape \(1, 5, 6\), but the density was fitted to \(1, 6, 6\)"):
        fit(pixels).log_density(torch.zeros(2, 1, 5, 6))
