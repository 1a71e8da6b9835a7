import math
from collections.abc import Callable

import pytest
import torch

from pellucid.core.errors import ShapeError
from pellucid.densities import held_out
from pellucid.densities.vae import VAE
from pellucid.training.descent import descend

CPU = torch.device("cpu")


def fit(pixels: torch.Tensor, seed: int = 0) -> VAE:
    return VAE.fit(pixels, seed=seed, minimise=descend, device=CPU)


@pytest.fixture(scope="module")
def vae(all_pixels: torch.Tensor) -> VAE:
    """Fitted to 300 of the 400 images."""
    return fit(all_pixels[:300])


def test_the_elbo_is_reconstruction_minus_divergence(vae: VAE, pixels: torch.Tensor) -> None:
    """Compare with torch's own distributions, for the same four draws."""
    images = pixels[:6].float() / 255
    mean, log_spread = vae.encoder(images).chunk(2, 1)
    posterior = torch.distributions.Normal(mean, log_spread.exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    fits = [
        torch.distributions.Normal(vae.decode(mean + log_spread.exp() * noise), vae.pixel_variance.sqrt())
        .log_prob(images)
        .sum((1, 2, 3))
        for noise in vae.noise
    ]
    torch.testing.assert_close(vae.log_density(images), sum(fits) / len(fits) - divergence, rtol=1e-4, atol=1e-3)


def test_the_elbo_is_a_lower_bound_of_the_log_density(vae: VAE, pixels: torch.Tensor) -> None:
    """Estimate log p(x) by importance sampling: it is at least the ELBO, up to the noise of four draws."""
    images = pixels[:20].float() / 255
    mean, log_spread = vae.encoder(images).chunk(2, 1)
    posterior = torch.distributions.Normal(mean, log_spread.exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    torch.manual_seed(0)
    weights = []
    for _ in range(300):
        codes = posterior.sample()
        pixel = torch.distributions.Normal(vae.decode(codes), vae.pixel_variance.sqrt())
        fit_of = pixel.log_prob(images).sum((1, 2, 3))
        weights.append(fit_of + prior.log_prob(codes).sum(1) - posterior.log_prob(codes).sum(1))
    log_density = torch.stack(weights).logsumexp(0) - math.log(300)
    assert (vae.log_density(images).mean() < log_density.mean() + 1.0).item()


def test_it_learns_both_kinds_of_bars_and_its_state_restores_it(vae: VAE, pixels: torch.Tensor) -> None:
    images = pixels[300:].float() / 255
    reconstructed = vae.decode(vae.encode(images))
    assert ((reconstructed - images) ** 2).mean() < 0.5 * images.var()
    assert vae.log_density(images).min() > vae.log_density(torch.rand(50, 1, 6, 6)).max()
    assert math.isfinite(held_out(vae, pixels[300:]).bits_per_dim)
    restored = VAE.from_state(vae.state())
    assert torch.equal(restored.log_density(images), vae.log_density(images))
    assert not restored.training
    assert not any(parameter.requires_grad for parameter in restored.parameters())


def test_equal_seeds_give_equal_bits_for_any_global_state(pixels: torch.Tensor) -> None:
    pixels = pixels[:100]
    first = fit(pixels).state()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    second = fit(pixels).state()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(fit(pixels, seed=1).state()["noise"], first["noise"])


def test_images_are_scored_independently(vae: VAE, pixels: torch.Tensor) -> None:
    images = pixels[:5].float() / 255
    alone = torch.cat([vae.log_density(image[None]) for image in images])
    torch.testing.assert_close(vae.log_density(images), alone, rtol=1e-4, atol=1e-3)


def test_likely_images_are_decoded_from_likely_codes(vae: VAE) -> None:
    codes = vae.likely_codes(5, 0)
    assert codes.shape == (5, vae.features)
    assert torch.equal(vae.likely(5, 0), vae.decode(codes))
    with pytest.raises(ShapeError, match="the density was fitted to"):
        vae.encode(torch.zeros(1, 3, 6, 6))


def test_it_is_trained_by_the_given_function(pixels: torch.Tensor) -> None:
    seen = []

    def minimise(module: torch.nn.Module, loss: Callable[[int], torch.Tensor], **options: float) -> None:
        seen.append((module, loss(0).item(), options))

    VAE.fit(pixels, seed=0, minimise=minimise, device=CPU)
    ((module, loss, options),) = seen
    assert isinstance(module, VAE)
    assert math.isfinite(loss)
    assert options["steps"] == 40 * math.ceil(400 / 128)
