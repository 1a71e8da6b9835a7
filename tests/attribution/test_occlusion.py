"""Occlusion: compared with captum and with w (x − x₀) on a linear model; bounded memory."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import occlusion
from pellucid.attribution._local import LocalPasses
from pellucid.core.errors import ConfigError

local_passes = occlusion._local_passes
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


class Local(nn.Module):
    """Strides, padding, dilation, groups, overlapping pooling, a shortcut, and an in-place rectifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (
            nn.Conv2d(2, 4, 3, stride=2, padding=2),
            nn.Conv2d(4, 4, (3, 1), padding=(2, 0), dilation=(2, 1)),
        )
        self.c, self.norm = nn.Conv2d(4, 6, 2, groups=2), nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        y = x.relu()
        y += self.b(y)
        y = F.max_pool2d(F.relu(y, inplace=True), 3, 2, 1)
        y = F.gelu(self.c(y))
        return torch.stack([y.mean((1, 2, 3)), y.flatten(1)[:, ::5].sum(1), y[:, 0, 0, 0]], 1)


@pytest.mark.parametrize(("window", "stride"), [((1, 5, 4), (1, 5, 4)), ((2, 2, 4), (2, 2, 4)), ((2, 5, 3), (1, 5, 3))])
def test_incremental_passes_equal_full_passes(window, stride, monkeypatch) -> None:
    model, images = Local().double().eval(), torch.rand(16, 2, 27, 24).double()
    used: list[LocalPasses] = []

    def remembered(*args: object) -> LocalPasses | None:
        used.append(local_passes(*args))
        return used[-1]

    monkeypatch.setattr(occlusion, "_local_passes", remembered)
    analyzer = create_analyzer("occlusion", model, window=window, stride=stride, baseline=0.4)
    targets = torch.arange(16) % 3
    many = analyzer.analyze(images, targets)
    few = analyzer.analyze(images[:3], targets[:3])
    torch.testing.assert_close(many[:3], few, rtol=1e-9, atol=1e-13)
    assert [one is not None for one in used] == [True, False]
    assert used[0].share < 0.5


def test_models_without_incremental_passes_run_in_full() -> None:
    """One ignores the result of an in-place function; the control flow of the other depends on the pixels."""

    class Ignoring(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.avg_pool2d(x, 2) - 0.5
            y.relu_()
            return y.sum((2, 3))

    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu() if x.sum() > 0.499 * x.numel() else x.tanh()
            return y.sum((2, 3))

    images = torch.rand(16, 3, 8, 8).double()
    for model in (Ignoring(), Choosing()):
        analyzer = create_analyzer("occlusion", model, window=2)
        assert analyzer.analyze(images, 1).shape == images.shape
    alone = torch.cat([create_analyzer("occlusion", Ignoring(), window=2).analyze(image[None], 1) for image in images])
    torch.testing.assert_close(create_analyzer("occlusion", Ignoring(), window=2).analyze(images, 1), alone)


def test_memory_is_independent_of_the_number_of_windows(counting) -> None:
    counting.linear = nn.Linear(256, 3).double()
    images = torch.rand(20, 1, 16, 16).double()
    for window, calls in ((14, 14), (1, 14 + 261)):
        create_analyzer("occlusion", counting, window=window, stride=1).analyze(images)
        assert len(counting.sizes) == calls
    assert max(counting.sizes) <= 32
    few, many = counting.bytes
    assert many <= few + 1000
