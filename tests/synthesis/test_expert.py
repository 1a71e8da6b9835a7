import torch

import pellucid
from pellucid.synthesis.expert import Expert


def test_the_log_prior_is_the_log_density(mixture, vae) -> None:
    images = torch.rand(4, 1, 8, 8)
    for density in (mixture, vae):
        prior = Expert(density=density)
        expressed, log_prior = prior.of_images(images)
        assert expressed is images
        assert torch.equal(log_prior, density.log_density(images))
        assert torch.equal(prior.log_prior(images, images), log_prior)
        assert prior.shape == (1, 8, 8)
        assert len(prior.begin(2000, 0)) >= 2000


def test_with_a_large_weight_the_search_finds_a_mode_of_the_density(network, mixture) -> None:
    heavy = pellucid.prototypes(network, prior=Expert(density=mixture, weight=100.0, steps=200))
    modes = mixture.log_density(mixture.likely(100, 0))
    assert (heavy.log_prior > modes.max() - 1).any()


def test_a_density_is_fitted_to_given_images(network, bars) -> None:
    result = pellucid.prototypes(network, prior="expert", images=bars[0], steps=5)
    assert result.images.shape == (3, 1, 8, 8)
