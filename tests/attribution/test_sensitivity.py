"""The squared gradient: compared with autograd and a closed form."""

import torch

from pellucid import create_analyzer


def test_is_the_gradient_squared(network, images, targets) -> None:
    relevance = create_analyzer("sensitivity", network).analyze(images, targets)
    for image, target, result in zip(images, targets, relevance, strict=True):
        slope = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], image)[target]
        torch.testing.assert_close(result, slope**2, rtol=1e-10, atol=1e-16)


def test_equals_the_closed_form(squares) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.1]).double()
    relevance = create_analyzer("sensitivity", squares).analyze(x.view(1, 1, 2, 2), 0).flatten()
    torch.testing.assert_close(relevance, (squares.a[0] * x).detach() ** 2, rtol=1e-12, atol=0)
