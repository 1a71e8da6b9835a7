import torch

import pellucid
from pellucid.synthesis.code import Code


def test_the_log_prior_is_the_normal_log_density_of_the_code_up_to_a_constant(vae) -> None:
    prior, codes = Code(density=vae), torch.randn(5, vae.features)
    log_prior = prior.log_prior(codes, prior.decode(codes))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(1)
    torch.testing.assert_close(log_prior - log_prior[0], normal - normal[0])


def test_images_are_replaced_by_their_reconstructions(vae) -> None:
    images = torch.rand(3, 1, 8, 8)
    reconstructed, log_prior = Code(density=vae).of_images(images)
    assert torch.equal(reconstructed, vae.decode(vae.encode(images)))
    torch.testing.assert_close(log_prior, -vae.encode(images).square().sum(1) / 2)


def test_every_prototype_is_an_output_of_the_decoder(network, vae) -> None:
    result = pellucid.prototypes(network, prior=Code(density=vae, steps=30))
    codes = (0.1 * torch.randn(3, 20, vae.features, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([codes], 0.1)
    for _ in range(300):
        error = (vae.decode(codes.flatten(0, 1)).view(3, 20, 64) - result.images.view(3, 1, 64)).square().mean(2)
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    assert error.min(1).values.max() < 1e-3
