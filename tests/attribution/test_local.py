"""The local part of a network: reaches by an oracle, scores equal to those of complete passes, and its limits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from pellucid import create_analyzer
from pellucid.attribution import _local, _segments
from pellucid.attribution._local import LocalPart
from pellucid.attribution._reach import colors_of, neighbors_in, reach_after, reach_of_segments
from pellucid.attribution._segments import patches_of
from pellucid.attribution._target import Contrast, Target

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")


# ── reaches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def calls(draw) -> tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]:
    """A convolution of ones or a pooling, with its arguments after the image."""
    size, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["convolution", "same", "max", "average"]))
    if kind == "convolution":
        padding = draw(st.integers(0, 3))
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        return F.conv2d, (torch.ones(1, 1, size, size),), options
    if kind == "same":
        side = 2 * size - 1  # torch warns about even ones
        return F.conv2d, (torch.ones(1, 1, side, side), None, 1, "same", dilation), {}
    options = {"stride": stride, "padding": draw(st.integers(0, size // 2)), "ceil_mode": draw(st.booleans())}
    return (F.max_pool2d if kind == "max" else F.avg_pool2d), (size,), options


@settings(max_examples=60, deadline=None)
@given(st.lists(calls(), min_size=1, max_size=3), st.integers(2, 5))
def test_reach_is_where_a_segment_alone_leaves_a_trace(layers, patch) -> None:
    index = patches_of((1, 19, 19), (1, patch, patch))
    reach = reach_of_segments(index)
    trace = reach[:, None]  # one image per segment, which is 1 there and 0 elsewhere: sums and maxima are positive
    for function, args, options in layers:
        try:
            trace = function(trace, *args, **options)
        except RuntimeError:  # the window is larger than what is left of the image
            return
        known, image = reach, torch.zeros(1, 1, *reach.shape[1:])
        reach = reach_after(
            function, (image, *args), options, lambda x, image=image, own=known: own if x is image else None
        )
    torch.testing.assert_close(reach, (trace[:, 0] > 0).float())
    colors = torch.tensor(colors_of(neighbors_in(reach)))
    for color in colors.unique():  # no place sees two segments of a color
        assert float(reach[colors == color].sum(0).max()) <= 1


@pytest.mark.parametrize(
    ("function", "args", "options"),
    [
        (F.linear, (torch.ones(4, 6),), {}),
        (F.batch_norm, (None, None), {"training": True}),
        (F.dropout, (0.5, True), {}),
        (F.max_pool2d, (2,), {"return_indices": True}),
        (torch.add, (torch.ones(3, 1, 6, 6),), {}),  # one constant per image
        (torch.add, (torch.ones(1, 5, 6, 6, 6),), {}),  # broadcasts over a further axis
        (F.conv1d, (torch.ones(1, 1, 3),), {}),  # the axes do not fit
        (torch.softmax, (1,), {}),
        (torch.flatten, (1,), {}),
    ],
)
def test_other_operations_have_no_reach(function, args, options) -> None:
    image, reach = torch.ones(3, 1, 6, 6), torch.ones(2, 6, 6)
    assert reach_after(function, (image, *args), options, lambda x: reach if x is image else None) is None


def test_a_value_of_two_images_reaches_what_either_reaches() -> None:
    image, other = torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    reaches = {id(image): reach_of_segments(patches_of((1, 2, 2), (1, 1, 2))), id(other): torch.zeros(2, 2, 2)}
    reach = reach_after(torch.mul, (image, other), {}, lambda x: reaches.get(id(x)))
    torch.testing.assert_close(reach, reaches[id(image)])


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Of(nn.Module):
    """A model of some layers and a function of the image and these layers."""

    def __init__(self, forward: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.own = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x, *self.layers)


def head(channels: int = 8) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * channels, 4)]


def conv(inputs: int = 3, outputs: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **options)


def norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(8)
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    return layer


def squeeze(x: Tensor, first: nn.Module, gate: nn.Module, last: nn.Module, *rest: nn.Module) -> Tensor:
    x = F.relu(first(x), inplace=True)
    x = last(x * gate(x.mean((2, 3))).sigmoid()[:, :, None, None])
    return nn.Sequential(*rest)(x)


def skip(x: Tensor, first: nn.Module, *rest: nn.Module) -> Tensor:
    return nn.Sequential(*rest)(first(x).relu_()) + x.mean((1, 2, 3))[:, None]


def branch(x: Tensor, first: nn.Module, *rest: nn.Module) -> Tensor:
    x = first(x)
    return nn.Sequential(*rest)(x if float(x.mean()) > 0 else -x)


def unseen(x: Tensor, *rest: nn.Module) -> Tensor:
    with torch._C.DisableTorchFunction():  # as in code that torch has compiled
        mean = x.mean((1, 2, 3))
    return nn.Sequential(*rest)(x) + mean[:, None]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "plain": (lambda: nn.Sequential(conv(), nn.ReLU(), conv(8), nn.MaxPool2d(2), *head()), True),
    "residual": (lambda: nn.Sequential(conv(padding=1), BasicBlock(8, 8), BasicBlock(8, 8), *head()), True),
    "norms": (
        lambda: nn.Sequential(conv(padding="same"), norm(), nn.SiLU(), nn.Dropout(), conv(8, stride=2), *head()),
        True,
    ),
    "dilated": (lambda: nn.Sequential(conv(dilation=2), nn.AvgPool2d(3, 2, 1, ceil_mode=True), *head()), True),
    "circular": (lambda: nn.Sequential(conv(), conv(8, padding=1, padding_mode="circular"), *head()), True),
    "channels last": (
        lambda: nn.Sequential(conv(), nn.ReLU(inplace=True), conv(8), *head()).to(memory_format=torch.channels_last),
        True,
    ),
    "squeeze": (lambda: Of(squeeze, conv(), nn.Linear(8, 8), conv(8), *head()), True),
    "past the layers": (lambda: Of(skip, conv(), conv(8), *head()), True),
    "control flow": (lambda: Of(branch, conv(), *head()), False),
    "centered first": (lambda: Of(lambda x, *rest: nn.Sequential(*rest)(x - x.mean()), conv(), *head()), True),
    "out of sight": (lambda: Of(unseen, conv(), conv(8), *head()), True),
    "no kernels": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), False),
}


@pytest.fixture
def is_eager(monkeypatch) -> None:
    """Use local parts even where they save nothing, as in networks this small."""
    monkeypatch.setattr(_local, "LEAST_GAIN", -1.0)
    monkeypatch.setattr(_local, "PRODUCTS_PER_VALUE", 0)


def both_ways(monkeypatch, name: str, model: nn.Module, images: Tensor, target: Any = 1, **options: Any):
    """Return an explanation, the same by complete passes only, and the local parts that the first one used."""
    parts: list[LocalPart | None] = []
    build = _segments.local_part

    def spy(*args: Any) -> LocalPart | None:
        parts.append(build(*args))
        return parts[-1]

    monkeypatch.setattr(_segments, "local_part", spy)
    ours = create_analyzer(name, model, **options).explain(images, target)
    monkeypatch.setattr(_segments, "local_part", lambda *_: None)
    return ours, create_analyzer(name, model, **options).explain(images, target), parts


@pytest.mark.parametrize("network", NETWORKS)
def test_scores_are_those_of_complete_passes(network, is_eager, monkeypatch) -> None:
    torch.manual_seed(0)
    build, is_used = NETWORKS[network]
    model, images = build().double().eval(), torch.rand(2, 3, 16, 16).double()
    if network == "channels last":
        images = images.to(memory_format=torch.channels_last)
    ours, theirs, parts = both_ways(monkeypatch, "kernel_shap", model, images, patch=5, coalitions=200)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours.details, theirs.details, rtol=1e-7, atol=1e-9)
    assert [part is not None for part in parts] == [is_used]


@pytest.mark.parametrize("method", ["lime", "shapley_sampling", "feature_ablation"])
@pytest.mark.parametrize("target", [None, "all", Contrast(1, 2), lambda logits: logits[:, 0] ** 2])
def test_all_methods_and_targets(method, target, is_eager, monkeypatch) -> None:
    torch.manual_seed(0)
    model, images = NETWORKS["plain"][0]().double().eval(), torch.rand(2, 3, 16, 16).double()
    options = {"patch": 2 if method == "feature_ablation" else 5, "baseline": torch.rand(2, 3, 16, 16).double()}
    ours, theirs, parts = both_ways(monkeypatch, method, model, images, target, **options)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-10)
    assert len(parts) == 1


@pytest.mark.parametrize("is_by_channel", [False, True])
def test_any_segments(is_by_channel, is_eager, monkeypatch) -> None:
    torch.manual_seed(0)
    model, images = NETWORKS["plain"][0]().double().eval(), torch.rand(1, 3, 16, 16).double()
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    labels = (rows * rows + columns * columns).sqrt().long() // 5 * 2 + (rows > columns)  # sectors of rings
    segments = torch.stack([labels, labels, labels + 20]) if is_by_channel else labels
    ours, theirs, parts = both_ways(monkeypatch, "lime", model, images, segments=segments, samples=1200)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-10)
    assert parts[0] is not None


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(axes, is_eager, monkeypatch) -> None:
    torch.manual_seed(0)
    kind, pool = (nn.Conv1d, nn.MaxPool1d) if axes == 1 else (nn.Conv3d, nn.MaxPool3d)
    side = 40 if axes == 1 else 8
    model = nn.Sequential(kind(2, 8, 3), nn.ReLU(), kind(8, 8, 2), pool(2), nn.Flatten(), nn.LazyLinear(3)).double()
    images = torch.rand(2, 2, *(side for _ in range(axes))).double()
    model(images)
    options = {"patch": 8 if axes == 1 else 4, "samples": 2000}
    ours, theirs, parts = both_ways(monkeypatch, "lime", model.eval(), images, **options)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-10)
    assert parts[0] is not None


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def counted(model: nn.Module) -> list[int]:
    """Return a list that receives the number of images in each pass of the first layer."""
    sizes: list[int] = []
    model[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_the_local_part_runs_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(), nn.ReLU(), conv(8), nn.MaxPool2d(2), *head()).eval()
    sizes = counted(model)
    create_analyzer("kernel_shap", model, patch=5, coalitions=512).analyze(torch.rand(1, 3, 16, 16), 1)
    # 512 coalitions by complete passes; here, two surveys of one image, 16 combinations, and few images for checks
    assert sum(sizes) < 64


def test_what_saves_nothing_is_surveyed_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 1), nn.Flatten(), nn.Linear(196, 300), nn.Linear(300, 4)).eval()
    sizes, images = counted(model), torch.rand(1, 3, 16, 16)
    analyzer = create_analyzer("kernel_shap", model, patch=5, coalitions=200)
    analyzer.analyze(images, 1)
    first = len(sizes)
    analyzer.analyze(images, 1)
    assert len(sizes) == 2 * first - 1


@pytest.mark.parametrize("first", [0, 3])
def test_a_recording_that_does_not_hold_is_not_used(first, monkeypatch) -> None:
    torch.manual_seed(0)
    model = NETWORKS["plain"][0]().double().eval()
    images = torch.rand(1, 3, 16, 16).double()
    expected = create_analyzer("kernel_shap", model, patch=5, coalitions=200).analyze(images, 1)
    right = LocalPart.logits
    calls: list[int] = []

    def wrong(self: LocalPart, is_shown: Tensor) -> Tensor:
        calls.append(len(is_shown))
        return right(self, is_shown) + (1.0 if len(calls) > first else 0.0)

    monkeypatch.setattr(LocalPart, "logits", wrong)
    found = create_analyzer("kernel_shap", model, patch=5, coalitions=200).analyze(images, 1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert len(calls) > first


def compacted(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    """A network whose values have sizes that depend on the image."""
    x = first(x).relu()
    chosen = x.flatten()[x.flatten().nonzero()[:, 0]]
    return last(x.mean((2, 3))) + chosen.view(len(chosen)).sum() / 1000


def test_sizes_that_depend_on_the_image(is_eager, monkeypatch) -> None:
    torch.manual_seed(0)
    model, images = Of(compacted, conv(), nn.Linear(8, 4)).double().eval(), torch.rand(1, 3, 16, 16).double()
    ours, theirs, _ = both_ways(monkeypatch, "kernel_shap", model, images, patch=5, coalitions=200)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("target", [Target(2), Target([1, 0]), Target(None), Target(Contrast([0, 1], 2))])
def test_scores_of_copies_are_those_of_each_copy(target) -> None:
    logits = torch.randn(5, 2, 3)
    torch.testing.assert_close(target.scores_of_copies(logits), torch.stack([target.scores(copy) for copy in logits]))
