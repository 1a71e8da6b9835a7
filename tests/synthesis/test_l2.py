import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError
from pellucid.synthesis._fourier import begin_spectrum, colour_mixing, image_of_spectrum
from pellucid.synthesis._regularisers import blurred, similarity, total_variation, warped
from pellucid.synthesis.l2 import L2


def test_the_log_prior_is_its_formula() -> None:
    images = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    prior = L2(image_shape=(2, 4, 5), origin=0.25, total_variation=0.7)
    for image, told in zip(images, prior.of_images(images)[1], strict=True):
        distance = sum((value - 0.25) ** 2 for value in image.flatten().tolist())
        rough = sum(
            abs(float(image[c, y + dy, x + dx] - image[c, y, x]))
            for c in range(2)
            for y in range(4)
            for x in range(5)
            for dy, dx in ((1, 0), (0, 1))
            if y + dy < 4 and x + dx < 5
        )
        assert told.item() == pytest.approx(-distance - 0.7 * rough)
    assert total_variation(torch.full((1, 3, 4, 4), 0.3)).item() == 0


def test_the_blur_is_a_gaussian() -> None:
    images = torch.rand(2, 3, 12, 9, dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), (0, 0, 1.3, 1.3), mode="nearest", radius=4)
    torch.testing.assert_close(blurred(images, 1.3), torch.from_numpy(expected))
    assert blurred(images, 0.0) is images


def test_moves_shift_rotate_and_scale_within_their_bounds() -> None:
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
    assert 7 < torch.rad2deg(slopes.atan()).abs().max() < 10.5  # on pixels that are squares, whatever the aspect
    images = torch.rand(2, 1, 5, 5)
    assert warped(images, 0.0, 0.0, 0.0, draws) is images


def test_similarity_is_the_mean_cosine_with_the_others() -> None:
    images = torch.rand(6, 1, 3, 3)
    told = similarity(images, groups=2, size=3)
    cosine = nn.functional.cosine_similarity
    flat = images.flatten(1)
    assert told[4].item() == pytest.approx(
        (cosine(flat[4], flat[3], dim=0) + cosine(flat[4], flat[5], dim=0)).item() / 2, rel=1e-5
    )


def test_a_spectrum_makes_images_whose_scales_and_colours_are_those_of_nature() -> None:
    draws = torch.Generator().manual_seed(0)
    spectrum = 10 * begin_spectrum(400, (3, 16, 15), draws)
    images = image_of_spectrum(spectrum, 15, 0.8)
    assert images.shape == (400, 3, 16, 15)
    assert 0 < images.min() <= images.max() < 1
    before = images.logit()
    colours = torch.corrcoef(before.permute(1, 0, 2, 3).flatten(1))
    torch.testing.assert_close(colours, torch.full((3, 3), 0.8).fill_diagonal_(1.0), atol=0.05, rtol=0)
    power = torch.fft.rfft2(before).abs().square().mean((0, 1))
    assert power[1, 1] / power[2, 2] == pytest.approx(4, rel=0.4)  # amplitude falls with 1 / frequency
    mixing = colour_mixing(0.8)
    torch.testing.assert_close(mixing, mixing.T)


@pytest.mark.parametrize("knob", [{"origin": 2.0}, {"blur_pixels": -1.0}, {"shift_share": 1.5}, {"weight": -1.0}])
def test_knobs_out_of_range_are_told(knob) -> None:
    with pytest.raises(ConfigError, match=f"the option {next(iter(knob))} is"):
        L2(image_shape=(1, 8, 8), **knob)
    with pytest.raises(ConfigError, match="parametrisation is 'waves'"):
        pellucid.prototypes(nn.Flatten(), prior="l2", image_shape=(1, 8, 8), parametrisation="waves")
    with pytest.raises(ConfigError, match=r"give \(channels, height, width\)"):
        pellucid.prototypes(nn.Flatten(), prior="l2", image_shape=(0, 8, 8))


@pytest.mark.parametrize("parametrisation", ["fourier", "pixels"])
def test_colour_images(parametrisation: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    nn.init.normal_(model[4].weight, std=10.0)
    found = pellucid.prototypes(
        model, prior="l2", image_shape=(3, 20, 24), parametrisation=parametrisation, weight=1e-5, steps=60
    )
    assert found.images.shape == (4, 3, 20, 24)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert (found.objective > found.history[:, 0]).all()


@pytest.mark.slow
def test_a_large_network_on_colour_images() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    found = pellucid.prototypes(model, [3, 7], prior="l2", image_shape=(3, 64, 64), steps=12, starts=1)
    assert found.images.shape == (2, 3, 64, 64)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert (found.objective > found.history[:, 0]).all()
    unit = pellucid.prototypes(
        model, prior="l2", image_shape=(3, 64, 64), steps=8, starts=1, unit=("layer2.0.conv1", 5)
    )
    assert unit.objective.item() > unit.history[0, 0].item()
