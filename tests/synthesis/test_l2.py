import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError
from pellucid.synthesis._fourier import begin_spectrum, colour_mixing, image_of_spectrum
from pellucid.synthesis._regularisers import blurred, similarity, total_variation, warped
from pellucid.synthesis.l2 import L2


def test_the_log_prior_matches_its_formula() -> None:
    images = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    prior = L2(image_shape=(2, 4, 5), origin=0.25, total_variation=0.7)
    for image, log_prior in zip(images, prior.of_images(images)[1], strict=True):
        distance = sum((value - 0.25) ** 2 for value in image.flatten().tolist())
        rough = sum(
            abs(float(image[c, y + dy, x + dx] - image[c, y, x]))
            for c in range(2)
            for y in range(4)
            for x in range(5)
            for dy, dx in ((1, 0), (0, 1))
            if y + dy < 4 and x + dx < 5
        )
        assert log_prior.item() == pytest.approx(-distance - 0.7 * rough)
    assert total_variation(torch.full((1, 3, 4, 4), 0.3)).item() == 0


def test_the_blur_is_a_gaussian() -> None:
    images = torch.rand(2, 3, 12, 9, dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), (0, 0, 1.3, 1.3), mode="nearest", radius=4)
    torch.testing.assert_close(blurred(images, 1.3), torch.from_numpy(expected))
    assert blurred(images, 0.0) is images


def test_random_shifts_rotations_and_scales_respect_their_limits() -> None:
    draws = torch.Generator().manual_seed(0)
    spot = torch.zeros(200, 1, 41, 61)
    spot[:, :, 20, 30] = 1
    rows, columns = torch.arange(41.0).view(-1, 1), torch.arange(61.0)
    moved = warped(spot, 0.1, 0.0, 0.0, draws)[:, 0]
    mass = moved.sum((1, 2))
    down, across = (moved * rows).sum((1, 2)) / mass - 20, (moved * columns).sum((1, 2)) / mass - 30
    assert 3.5 < down.abs().max() < 4.15
    assert 5.5 < across.abs().max() < 6.15
    bar = torch.zeros(100, 1, 41, 61)
    bar[:, :, 20, 10:51] = 1
    turned = warped(bar, 0.0, 10.0, 0.0, draws)[:, 0]
    weights = turned * (columns - 30)
    slopes = (weights * (rows - 20)).sum((1, 2)) / (weights * (columns - 30)).sum((1, 2))
    assert 7 < torch.rad2deg(slopes.atan()).abs().max() < 10.5  # rigid in square pixels, for any aspect ratio
    images = torch.rand(2, 1, 5, 5)
    assert warped(images, 0.0, 0.0, 0.0, draws) is images


def test_similarity_is_the_mean_cosine_to_the_others() -> None:
    images = torch.rand(6, 1, 3, 3)
    similarities = similarity(images, groups=2, size=3)
    cosine = nn.functional.cosine_similarity
    flat = images.flatten(1)
    assert similarities[4].item() == pytest.approx(
        (cosine(flat[4], flat[3], dim=0) + cosine(flat[4], flat[5], dim=0)).item() / 2, rel=1e-5
    )


def test_images_of_random_spectra_have_natural_scales_and_color_correlations() -> None:
    draws = torch.Generator().manual_seed(0)
    spectrum = 10 * begin_spectrum(400, (3, 16, 15), draws)
    images = image_of_spectrum(spectrum, 15, 0.8)
    assert images.shape == (400, 3, 16, 15)
    assert 0 < images.min() <= images.max() < 1
    before = images.logit()
    correlations = torch.corrcoef(before.permute(1, 0, 2, 3).flatten(1))
    torch.testing.assert_close(correlations, torch.full((3, 3), 0.8).fill_diagonal_(1.0), atol=0.05, rtol=0)
    power = torch.fft.rfft2(before).abs().square().mean((0, 1))
    assert power[1, 1] / power[2, 2] == pytest.approx(4, rel=0.4)  # amplitude falls with 1 / frequency
    mixing = colour_mixing(0.8)
    torch.testing.assert_close(mixing, mixing.T)


@pytest.mark.parametrize("option", [{"origin": 2.0}, {"blur_pixels": -1.0}, {"shift_share": 1.5}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(option) -> None:
    with pytest.raises(ConfigError, match=f"got {next(iter(option))}="):
        L2(image_shape=(1, 8, 8), **option)
    with pytest.raises(ConfigError, match="parametrisation='waves'"):
        pellucid.prototypes(nn.Flatten(), prior="l2", image_shape=(1, 8, 8), parametrisation="waves")
    with pytest.raises(ConfigError, match=r"expected positive \(channels, height, width\)"):
        pellucid.prototypes(nn.Flatten(), prior="l2", image_shape=(0, 8, 8))


@pytest.mark.parametrize("parametrisation", ["fourier", "pixels"])
def test_color_images_are_supported(parametrisation: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    nn.init.normal_(model[4].weight, std=10.0)
    result = pellucid.prototypes(
        model, prior="l2", image_shape=(3, 20, 24), parametrisation=parametrisation, weight=1e-5, steps=60
    )
    assert result.images.shape == (4, 3, 20, 24)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert (result.objective > result.history[:, 0]).all()


@pytest.mark.slow
def test_a_large_network_on_color_images_is_supported() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    result = pellucid.prototypes(model, [3, 7], prior="l2", image_shape=(3, 64, 64), steps=12, starts=1)
    assert result.images.shape == (2, 3, 64, 64)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert (result.objective > result.history[:, 0]).all()
    unit = pellucid.prototypes(
        model, prior="l2", image_shape=(3, 64, 64), steps=8, starts=1, unit=("layer2.0.conv1", 5)
    )
    assert unit.objective.item() > unit.history[0, 0].item()
