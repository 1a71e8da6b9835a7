import torch

import pellucid
from pellucid.synthesis.expert import Expert


def test_the_log_prior_is_the_densitys(mixture, vae) -> None:
    images = torch.rand(4, 1, 8, 8)
    for density in (mixture, vae):
        prior = Expert(density=density)
        shown, log_prior = prior.of_images(images)
        assert shown is images
        assert torch.equal(log_prior, density.log_density(images))
        assert torch.equal(prior.log_prior(images, images), log_prior)
        assert prior.shape == (1, 8, 8)
        assert len(prior.begin(2000, 0)) >= 2000


def test_with_no_say_for_the_network_it_climbs_to_a_mode(network, mixture) -> None:
    heavy = pellucid.prototypes(network, prior=Expert(density=mixture, weight=100.0, steps=200))
    modes = mixture.log_density(mixture.likely(100, 0))
    assert (heavy.log_prior > modes.max() - 1).any()


def test_a_density_is_fitted_to_given_images(network, bars) -> None:
    found = pellucid.prototypes(network, prior="expert", images=bars[0], steps=5)
    assert found.images.shape == (3, 1, 8, 8)
