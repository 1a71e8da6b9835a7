"""Occlusion: compared with captum and with w (x − x₀) on a linear model; bounded memory."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError

SIZES = [
    ((1, 3, 3), (1, 2, 2)),
    ((1, 4, 5), (1, 3, 2)),
    ((1, 10, 10), (1, 1, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((1, 7, 2), (1, 7, 2)),
]


@pytest.mark.parametrize(("window", "stride"), SIZES)
def test_agrees_with_captum(network, images, targets, window, stride) -> None:
    theirs = captum.attr.Occlusion(network).attribute(
        images, sliding_window_shapes=window, strides=stride, target=targets, baselines=0.3
    )
    for sizes in (window, stride), (window[1:], stride[1:]):
        analyzer = create_analyzer("occlusion", network, window=sizes[0], stride=sizes[1], baseline=0.3)
        torch.testing.assert_close(
            analyzer.analyze(images, targets), theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()), check_dtype=False
        )


def test_agrees_with_captum_on_color_images_and_channel_windows() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    for window, stride in (((3, 32, 32), (3, 16, 16)), ((2, 40, 64), (1, 24, 64))):
        theirs = captum.attr.Occlusion(model).attribute(
            images, sliding_window_shapes=window, strides=stride, target=5, baselines=0
        )
        ours = create_analyzer("occlusion", model, window=window, stride=stride).analyze(images, 5)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_linear_model_has_a_closed_form(counting) -> None:
    images = torch.rand(2, 1, 4, 4).double()
    relevance = create_analyzer("occlusion", counting, window=1, baseline=0.25).analyze(images, 2)
    expected = counting.linear.weight[2].detach() * (images - 0.25).flatten(1)
    torch.testing.assert_close(relevance.flatten(1), expected)


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 4, 5, 3)])
def test_works_on_any_number_of_axes(shape) -> None:
    """On a linear model, a window's drop is the sum over its pixels; relevance is the mean over covering windows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2)).double()
    images = torch.rand(3, *shape).double()
    model(images)
    parts = (model[1].weight[1].detach() * images.flatten(1)).reshape(images.shape)
    relevance = create_analyzer("occlusion", model, window=3, stride=2).analyze(images, 1)
    total, count = torch.zeros_like(images), torch.zeros_like(images)
    places = shape[1:] or shape
    starts = [range(0, 2 * (-(-(size - 3) // 2)) + 1, 2) for size in places]
    for start in torch.cartesian_prod(*map(torch.tensor, map(list, starts))).reshape(-1, len(places)).tolist():
        window = (..., *(slice(first, first + 3) for first in start))
        axes = tuple(range(1, images.ndim))
        total[window] += parts[window].sum(axes, keepdim=True)
        count[window] += 1
    torch.testing.assert_close(relevance, total / count)


def test_default_windows_fit_the_image(network, images) -> None:
    explanation = create_analyzer("occlusion", network).explain(images, 1)
    assert explanation.evaluations.tolist() == [101] * 4  # windows of one pixel on 10×10
    assert not bool(explanation.relevance.isnan().any())


def test_invalid_sizes_are_reported(network, images) -> None:
    for options, message in (
        ({"window": 11}, "must fit into the image"),
        ({"window": 2, "stride": 3}, "stride must not exceed the window"),
        ({"window": (2, 2, 2, 2)}, "window has 4 sizes"),
        ({"window": 3, "stride": (1, 0)}, "each a whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_analyzer("occlusion", network, **options).analyze(images)


def test_large_batch_equals_its_images_for_any_operations() -> None:
    """Strides, padding, dilation, groups, overlapping pooling, a shortcut, in-place functions and ignored results."""

    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(2, 4, 3, stride=2, padding=2), nn.Conv2d(4, 4, (3, 1), padding=(1, 0))
            self.c = nn.Conv2d(4, 6, 2, groups=2, dilation=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y.relu_()
            y = y + self.b(y)
            y = F.gelu(self.c(F.max_pool2d(y, 3, 2, 1)))
            return torch.stack([y.mean((1, 2, 3)), y.flatten(1)[:, ::5].sum(1), y[:, 0, 0, 0]], 1)

    images, targets = torch.rand(16, 2, 27, 24).double(), torch.arange(16) % 3
    analyzer = create_analyzer("occlusion", Unusual().double(), window=(2, 5, 3), stride=(1, 5, 3), baseline=0.4)
    many = analyzer.analyze(images, targets)
    for number in (0, 7, 15):
        alone = analyzer.analyze(images[number : number + 1], targets[number : number + 1])
        torch.testing.assert_close(many[number : number + 1], alone, rtol=1e-9, atol=1e-13)


def test_memory_is_independent_of_the_number_of_windows(counting) -> None:
    counting.linear = nn.Linear(256, 3).double()
    images = torch.rand(20, 1, 16, 16).double()
    for window, calls in ((14, 12), (1, 12 + 259)):
        create_analyzer("occlusion", counting, window=window, stride=1).analyze(images)
        assert len(counting.sizes) == calls
    assert max(counting.sizes) <= 32
    few, many = counting.bytes
    assert many <= few + 1000
