import pytest
import torch

from pellucid.evaluation.continuity import Continuity, moved


def test_a_constant_map_is_perfectly_continuous(network, given):
    result = Continuity().measure(network, given(network, lambda images, _: torch.ones_like(images)))
    assert result.values.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("is_relative", [True, False])
def test_the_quotient_matches_the_formula(network, given, is_relative):
    result = Continuity(pixels=2, noises=2, noise=0.1, is_relative=is_relative)
    values = result.measure(network, given(network, lambda images, _: images**2)).values
    noises = network.draw("continuity", count=2)
    for image, value in zip(network.images, values, strict=True):
        near = [torch.zeros_like(image) for _ in range(4)]
        near[0][:, 2:], near[1][:, :-2], near[2][:, :, 2:], near[3][:, :, :-2] = (
            image[:, :-2],
            image[:, 2:],
            image[:, :, :-2],
            image[:, :, 2:],
        )
        near += [image + 0.1 * noise for noise in noises]
        quotients = [float((one**2 - image**2).abs().sum() / (one - image).norm()) for one in near]
        expected = max(quotients) / (float((image**2).sum()) if is_relative else 1)
        assert float(value) == pytest.approx(expected, rel=1e-10)


def test_shifts_that_change_nothing_are_skipped(network, given):
    network.images = torch.zeros_like(network.images)
    result = Continuity(noises=0).measure(network, given(network, lambda images, _: torch.ones_like(images)))
    assert result.values.tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(moved(torch.ones(1, 1, 3, 3), 3, -1)[0, 0], torch.tensor([[1.0, 1, 0]] * 3))
