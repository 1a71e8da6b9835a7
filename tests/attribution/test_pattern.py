"""Patterns: the paper's toy example, estimators, the backward pass, and unsupported models."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation
from pellucid.data import Request
from pellucid.data.digits import digits

NAMES = ("pattern.net", "pattern.attribution")
random = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    random.manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def patterns_of(model: nn.Module, loader: list[Tensor], estimator: str = "two_component") -> list[Tensor]:
    fitted = create_analyzer("pattern.net", model, estimator=estimator).fit(loader)
    return list(fitted.method.patterns.tensors.values())


# ── toy example: x = a_s y + a_d ε, where w = (1, −1) cancels the distractor (section 3 of the paper) ────────────────


def test_the_pattern_recovers_the_signal_and_the_gradient_does_not() -> None:
    signal, distractor = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 1.0]).double()
    y, noise = normal(500, 1), normal(500, 1)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
    images = y * signal + noise * distractor
    torch.testing.assert_close(model(images), y)
    noise = noise - noise.mean() - (noise * (y - y.mean())).sum() / (y - y.mean()).square().sum() * (y - y.mean())
    images = y * signal + noise * distractor  # now uncorrelated in the sample, so that the estimate is exact
    analyzer = create_analyzer("pattern.net", model, estimator="linear").fit([images[:200], images[200:]])
    torch.testing.assert_close(analyzer.method.patterns.tensors["000 model"][0], signal)
    torch.testing.assert_close(analyzer.analyze(images, 0), y * signal)
    torch.testing.assert_close(create_analyzer("gradient", model).analyze(images, 0), model.weight.expand(500, 2))
    attribution = create_analyzer("pattern.attribution", model, estimator="linear").fit([images])
    torch.testing.assert_close(attribution.analyze(images, 0), y * model.weight.detach() * signal)


# ── the estimators ───────────────────────────────────────────────────────────────────────────────────────────────────


def directly(x: Tensor, y: Tensor, is_positive: bool) -> Tensor:
    """Compute the estimators from x (position, input) and the output y of one unit, directly by formula."""
    chosen = y > 0 if is_positive else torch.ones_like(y, dtype=torch.bool)
    covariance = (x * y[:, None])[chosen].mean(0) - x[chosen].mean(0) * y.mean()
    if not is_positive:
        return covariance / y.var(correction=0)
    return covariance / (y[chosen].square().mean() - y[chosen].mean() * y.mean())


LAYERS = [
    (nn.Linear(7, 5), (40, 7)),
    (nn.Linear(7, 5), (40, 3, 7)),
    (nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2), (40, 2, 8, 8)),
    (nn.Conv2d(4, 6, 3, groups=2), (40, 4, 5, 5)),
    (nn.Conv1d(2, 4, 3), (40, 2, 8)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), (40, 4, 3, 3)),
]


def patches(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the input of each unit's weight, (position, input), from the Jacobian with respect to the weight."""
    if isinstance(layer, nn.Linear):
        return [x.reshape(-1, x.shape[-1])] * layer.out_features
    bare = [torch.func.functional_call(layer, {"weight": basis, "bias": 0 * layer.bias}, x) for basis in _bases(layer)]
    stacked = torch.stack(bare, -1).movedim(1, 0)  # (unit, batch, place…, weight)
    return [unit.reshape(-1, stacked.shape[-1]) for unit in stacked]


def _bases(layer: nn.Module) -> Tensor:
    count = layer.weight.numel()
    return torch.eye(count, dtype=torch.float64).view(count, *layer.weight.shape)


@pytest.mark.parametrize("estimator", ["linear", "two_component"])
@pytest.mark.parametrize("place", range(len(LAYERS)))
def test_estimators_equal_their_formulas(place, estimator) -> None:
    layer, shape = LAYERS[place]
    layer = layer.double()
    with torch.no_grad():
        layer.bias.normal_(generator=random)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten())
    x = normal(*shape) + 1
    (pattern,) = patterns_of(model, [x[:7], x[7:33], x[33:]], estimator)
    with torch.no_grad():
        z = layer(x)
    z = (z if isinstance(layer, nn.Linear) else z.movedim(1, -1)).reshape(-1, len(layer.bias))
    flat = isinstance(layer, nn.Linear)
    for unit, seen in enumerate(patches(layer, x)):
        own = slice(None) if flat else seen.abs().sum(0) > 0
        if estimator == "two_component" and not (z[:, unit] > 0).any():
            assert not (pattern[unit] if flat else pattern.flatten()[own]).any()
            continue
        expected = directly(seen[:, own], z[:, unit], estimator == "two_component")
        ours = pattern[unit] if flat else pattern.flatten()[own]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("estimator", ["linear", "two_component"])
def test_pattern_without_biases_equals_the_paper(estimator) -> None:
    """a = (E₊[xy] − E₊[x] E[y]) / wᵀ(E₊[xy] − E₊[x] E[y])."""
    layer, x = nn.Linear(6, 4, bias=False).double(), normal(80, 6) + 0.3
    (pattern,) = patterns_of(nn.Sequential(layer, nn.ReLU()), [x], estimator)
    for w, a in zip(layer.weight.detach(), pattern, strict=True):
        y = x @ w
        chosen = y > 0 if estimator == "two_component" else y > -torch.inf
        covariance = (x * y[:, None])[chosen].mean(0) - x[chosen].mean(0) * y.mean()
        torch.testing.assert_close(a, covariance / (w @ covariance))


def test_patterns_are_independent_of_the_batches(network, images) -> None:
    data = torch.rand(70, 1, 10, 10, generator=random).double()
    whole = patterns_of(network, [data])
    parts = patterns_of(network, [(part, None) for part in data.split(9)])
    for one, other, place in zip(whole, parts, (0, 3, 6, 8), strict=True):
        assert one.shape == network[place].weight.shape
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    backwards = patterns_of(network, list(data.flip(0).split(32)))
    for one, other in zip(whole, backwards, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_float32_sums_keep_their_digits() -> None:
    """The mean is far above the spread: with plain sums of x y, six of seven digits would cancel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 8))
    data = (300 + normal(2000, 20)).float()
    (pattern,) = patterns_of(model, [data], "linear")
    (expected,) = patterns_of(model.double(), [data.double()], "linear")
    assert float((pattern - expected).abs().max() / expected.abs().max()) < 2e-2


def test_module_used_twice_has_two_patterns() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.layer(F.relu(self.layer(x)))))

    fitted = create_analyzer("pattern.net", Twice()).fit([torch.rand(50, 6, generator=random).double()])
    tensors = fitted.method.patterns.tensors
    assert list(tensors) == ["000 layer", "001 layer", "002 last"]
    assert not torch.allclose(tensors["000 layer"], tensors["001 layer"])


def test_only_rectified_units_use_positive_outputs(network) -> None:
    data = torch.rand(40, 1, 10, 10, generator=random).double()
    two, linear = patterns_of(network, [data]), patterns_of(network, [data], "linear")
    assert [torch.allclose(a, b) for a, b in zip(two, linear, strict=True)] == [False, False, False, True]


# ── backward pass ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_backward_pass_is_autograd_with_replaced_weights(network, images, targets, name) -> None:
    analyzer = create_analyzer(name, network).fit([torch.rand(60, 1, 10, 10, generator=random).double()])
    tensors = list(analyzer.method.patterns.tensors.values())
    values, gates = images, []
    with torch.no_grad():
        first = network[0](values)
        pooled, winners = F.max_pool2d(F.relu(first), 2, return_indices=True)
        second = network[3](pooled)
        third = network[6](F.relu(second).flatten(1))
        logits = network[8](F.relu(third))
        gates = [first > 0, second > 0, third > 0]
        stands = [p * network[n].weight if name == NAMES[1] else p for p, n in zip(tensors, (0, 3, 6, 8), strict=True)]
        r = logits.gather(1, targets[:, None]) * stands[3][targets]
        r = ((r * gates[2]) @ stands[2]).view_as(second) * gates[1]
        r = F.max_unpool2d(F.conv_transpose2d(r, stands[1]), winners, 2) * gates[0]
        expected = F.conv_transpose2d(r, stands[0], padding=1)
    torch.testing.assert_close(analyzer.analyze(images, targets), expected, rtol=1e-9, atol=1e-13)


def test_batch_norm_is_merged_and_scale_is_not() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    plain(torch.rand(50, 1, 6, 6))
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2).mul_(torch.tensor([1, -1, 1, 1]))
    plain.double().eval()
    folded = nn.Sequential(torch.nn.utils.fusion.fuse_conv_bn_eval(plain[0], norm), *plain[2:]).double()
    data = torch.rand(60, 1, 6, 6, generator=random).double()
    for name in NAMES:
        ours = create_analyzer(name, plain).fit([data]).analyze(data[:4])
        torch.testing.assert_close(ours, create_analyzer(name, folded).fit([data]).analyze(data[:4]))

    class Scaled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - 0.5) / 0.25)

    for name, factor in zip(NAMES, (0.25, 1.0), strict=True):
        inside = create_analyzer(name, Scaled(*plain)).fit([data]).analyze(data[:4])
        outside = create_analyzer(name, plain).fit([(data - 0.5) / 0.25]).analyze((data[:4] - 0.5) / 0.25)
        torch.testing.assert_close(inside, outside * factor)


def test_separate_batch_norm_has_the_inverse_of_its_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2, -4, 0.5, 0]))
    data = normal(50, 5)
    fitted = create_analyzer("pattern.net", model).fit([data])
    (pattern,) = fitted.method.patterns.tensors.values()
    logit, gate = model(data)[:, :1].detach(), (model[0](data) > 0).detach()
    inverse = torch.tensor([1, 0.5, -0.25, 2, 0]).double() * (1 + 1e-5) ** 0.5
    torch.testing.assert_close(fitted.analyze(data, 0), logit * pattern[0] * gate * inverse, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["linear", "two_component"])
def test_dead_units_have_zero_patterns(estimator) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
        with torch.no_grad():
            model[0].bias[:3] = -100  # never active
            model[0].weight[3] = 0  # never varies: bias only
            model[0].bias[3] = 0.7
            model[2].weight[:, 4:] = 0  # only has dead inputs
            model[2].weight[5] = 0
        data = torch.rand(100, 6, generator=random).to(dtype)
        patterns = patterns_of(model, [data[:30], data[30:]], estimator)
        assert all(bool(pattern.isfinite().all()) for pattern in patterns)
        assert not patterns[0][3].any()
        assert not patterns[1][5].any()
        if estimator == "two_component":
            assert not patterns[0][:3].any()
        for name in NAMES:
            relevance = create_analyzer(name, model, estimator=estimator).fit([data]).analyze(data, "all")
            assert bool(relevance.isfinite().all())


def test_constant_images_have_no_pattern() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    for data in (torch.zeros(40, 6), torch.full((40, 6), 0.3)):
        assert not any(pattern.any() for pattern in patterns_of(model, [data[:13], data[13:]]))


def test_on_digits_the_maps_show_the_strokes_of_their_class(tmp_path) -> None:
    torch.manual_seed(0)
    train = digits(Request(tmp_path)).train
    x, labels = train.floats(), train.labels
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        some = torch.randint(len(x), (64,), generator=random)
        optimiser.zero_grad()
        F.cross_entropy(model(x[some]), labels[some]).backward()
        optimiser.step()
    model.eval()
    assert (model(x[:200]).argmax(1) == labels[:200]).float().mean() > 0.9
    shown = x[:40]

    def likeness(maps: Tensor) -> float:
        return float(F.cosine_similarity(maps.flatten(1), shown.flatten(1)).mean())

    gradient = likeness(create_analyzer("gradient", model).analyze(shown))
    for name in NAMES:
        analyzer = create_analyzer(name, model).fit(x[:400].split(100))
        maps = analyzer.analyze(shown)
        assert bool(maps.isfinite().all())
        assert likeness(maps) > 2 * max(gradient, 0.1)
        every = analyzer.analyze(shown, "all").flatten(2)
        apart = (every[:, :, None] - every[:, None]).abs().amax(-1) + torch.eye(10) * 1e9
        assert float(apart.min()) > 1e-3 * float(every.abs().amax(2).median())
        reordered = create_analyzer(name, model).fit(x[:400].flip(0).split(64)).analyze(shown)
        torch.testing.assert_close(reordered, maps, rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unsupported_operations_are_refused_by_name() -> None:
    gated = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with pytest.raises(UnsupportedOperation, match=r"not defined for layer_norm in '2' .*'lrp.epsilon'"):
        create_analyzer("pattern.net", gated).fit([torch.rand(5, 1, 2, 2)])

    class Matrices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (torch.ones(3, 2, 2) @ x.expand(len(x), 3, 2, 2)).flatten(1)

    with pytest.raises(UnsupportedOperation, match=r"no patterns for .*matmul"):
        create_analyzer("pattern.net", Matrices()).fit([torch.rand(5, 1, 2, 2)])
    with pytest.raises(ConfigError, match="at least one batch"):
        create_analyzer("pattern.net", nn.Linear(3, 2)).fit([])
    with pytest.raises(ShapeError, match="the loader yields .*uint8"):
        create_analyzer("pattern.net", nn.Linear(3, 2)).fit([torch.zeros(2, 3, dtype=torch.uint8)])


def test_changed_weights_are_detected(images) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 3)).double()
    analyzer = create_analyzer("pattern.net", model).fit([torch.rand(30, 1, 10, 10, generator=random).double()])
    analyzer.analyze(images)
    model[1].weight.data[0, 0] += 1e-3
    with pytest.raises(ConfigError, match=re.escape("other weights than the model has now")):
        analyzer.analyze(images)


def test_image_dependent_control_flow_is_refused(images) -> None:
    class Deeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = self.layer(x).relu()
            return x

    fitted = create_analyzer("pattern.net", Deeper()).fit([normal(1, 4), normal(1, 4)])
    fitted.analyze(normal(1, 4))
    with pytest.raises(UnsupportedOperation, match="different kernel layers for some images"):
        create_analyzer("pattern.net", Deeper()).fit([normal(1, 4), normal(2, 4)])
