"""Expected gradients: a closed form, the formula pair by pair, and the references kept by `fit`."""

import pytest
import torch

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.seeding import generator

REFERENCES = torch.rand(40, 1, 10, 10, generator=torch.Generator().manual_seed(3)).double()


def test_equals_the_closed_form(squares) -> None:
    """E[(x − x′) a (x′ + t (x − x′))] = a (x² − E x′²) / 2, with t uniform."""
    x, a = torch.tensor([0.5, -1.0, 2.0, 0.1]).double(), squares.a[0].detach()
    references = torch.tensor([[0.2, 1, 0, -2], [0, 2, 1, 1]]).double()
    # Which reference is drawn adds more variance than t, so one reference has a tighter tolerance.
    for some, within in ((references[:1], 0.005), (references, 0.25)):
        analyzer = create_analyzer("expected_gradients", squares, samples=400, references=some.view(-1, 1, 2, 2))
        expected = a * (x**2 - some.square().mean(0)) / 2
        torch.testing.assert_close(analyzer.analyze(x.view(1, 1, 2, 2), 0).flatten(), expected, rtol=0.02, atol=within)


def test_equals_the_formula_pair_by_pair(network, images, targets) -> None:
    source = generator(5, "expected_gradients")
    chosen = torch.randint(len(REFERENCES), (6,), generator=source)
    places = (torch.arange(6) + torch.rand(6, generator=source, dtype=torch.float64)) / 6  # one in each sixth
    analyzer = create_analyzer("expected_gradients", network, samples=6, seed=5).fit([REFERENCES])
    for image, target, relevance in zip(images, targets, analyzer.analyze(images, targets), strict=True):
        expected = torch.zeros_like(image)
        for reference, place in zip(REFERENCES[chosen], places, strict=True):
            leaf = (reference + place * (image - reference)).requires_grad_()
            expected += (image - reference) * torch.autograd.grad(network(leaf[None])[0, target], leaf)[0] / 6
        torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-14)


def test_sum_approximates_the_mean_difference(network, images) -> None:
    analyzer = create_analyzer("expected_gradients", network, samples=100).fit(
        [REFERENCES[:20], (REFERENCES[20:], None)]
    )
    expected = (network(images) - network(REFERENCES).mean(0))[:, 1].detach()
    sums = analyzer.analyze(images, 1).flatten(1).sum(1)
    torch.testing.assert_close(sums, expected, rtol=0.2, atol=0.05)


def test_fit_keeps_the_first_images(network, images) -> None:
    fitted = create_analyzer("expected_gradients", network, keep=25, samples=4).fit(
        [REFERENCES[:20], (REFERENCES[20:], None)]
    )
    assert torch.equal(fitted.method.references, REFERENCES[:25])
    given = create_analyzer("expected_gradients", network, samples=4, references=REFERENCES[:25])
    assert torch.equal(given.analyze(images, 0), fitted.analyze(images, 0))


def test_missing_references_are_reported_with_a_remedy(network, images) -> None:
    analyzer = create_analyzer("expected_gradients", network)
    with pytest.raises(ConfigError, match=r"fit\(loader\)"):
        analyzer.analyze(images)
    with pytest.raises(ConfigError, match="at least one batch"):
        analyzer.fit([])


def test_references_of_another_size_are_refused(network, images) -> None:
    larger = torch.rand(4, *(size + 1 for size in images.shape[1:]), dtype=images.dtype)
    fitted = create_analyzer("expected_gradients", network, references=larger)
    with pytest.raises(ShapeError, match=r"references of .* and the images are"):
        fitted.analyze(images)
    with pytest.raises(ShapeError, match="of one size"):
        create_analyzer("expected_gradients", network).fit([REFERENCES[:2], larger])
