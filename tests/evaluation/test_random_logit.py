import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pellucid.evaluation._similarity import similarity
from pellucid.evaluation.random_logit import RandomLogit


@pytest.mark.parametrize("control", ["random", "constant", "sobel", "input"])
@pytest.mark.parametrize("kind", ["ssim", "spearman", "cosine"])
def test_a_map_without_class_information_is_equal_for_all_classes(network, by_name, control, kind):
    values = RandomLogit(kind).measure(network, by_name(network, control)).values
    torch.testing.assert_close(values.double(), torch.ones(3).double())


def test_the_other_class_differs_from_the_explained_one(network, given):
    seen = []

    def maps(images, targets):
        seen.append(targets)
        return images * (1 + targets[:, None, None, None])

    RandomLogit().measure(network, given(network, maps))
    own, other = seen
    assert torch.equal(own, network.targets)
    assert bool((own != other).all())
    assert int(other.max()) <= 2


def slow_ssim(one, two):
    """Equation 13 of Wang et al. (2004) with a Gaussian window of 7 pixels, position by position."""
    one, two = ((maps - maps.min()) / (maps.max() - maps.min()) for maps in (one, two))
    reach = np.arange(7) - 3
    window = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(one.shape[0] - 6):
        for x in range(one.shape[1] - 6):
            a, b = one[y : y + 7, x : x + 7], two[y : y + 7, x : x + 7]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            both = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_similarities_agree_with_independent_implementations():
    draws = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 1, 8, 8, generator=draws, dtype=torch.float64).round(decimals=1) for _ in range(2))
    for image in range(3):
        a, b = one[image, 0].numpy(), two[image, 0].numpy()
        assert float(similarity(one, two, "spearman")[image]) == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
        assert float(similarity(one, two, "ssim")[image]) == pytest.approx(slow_ssim(a, b), abs=1e-9)
        angle = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        assert float(similarity(one, two, "cosine")[image]) == pytest.approx(angle)


def test_constant_maps_are_similar_only_to_each_other():
    flat, other = torch.ones(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
    assert float(similarity(flat, 2 * flat, "spearman")) == 1
    assert float(similarity(flat, other, "spearman")) == 0
