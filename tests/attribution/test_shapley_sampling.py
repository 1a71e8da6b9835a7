"""Shapley sampling: equal to captum for equal orders, exact values by enumeration, and completeness per order."""

from itertools import count, permutations

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution._segments import patches_of
from pellucid.core import terminal
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import generator


def test_agrees_with_captum_for_equal_orders(network, images, targets) -> None:
    patches = patches_of((1, 10, 10), (1, 3, 4))
    count = int(patches.max()) + 1
    source = generator(5, "shapley_sampling")
    orders = [torch.randperm(count, generator=source).tolist() for _ in range(3)]
    sampling = captum.attr.ShapleyValueSampling(network)
    sampling.permutation_generator = lambda *_: orders
    theirs = sampling.attribute(images, target=targets, feature_mask=patches[None], n_samples=3, baselines=0.1)
    analyzer = create_analyzer("shapley_sampling", network, patch=(3, 4), permutations=3, seed=5, baseline=0.1)
    ours = analyzer.analyze(images, targets) * patches.flatten().bincount()[patches]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()), check_dtype=False)


def exact(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """Compute exact Shapley values as the mean over all orders."""
    values, count = torch.zeros(image.numel()).double(), 0
    for order in permutations(range(image.numel())):
        shown = torch.zeros_like(image).flatten()
        before = model(shown.reshape(image.shape)[None])[0, target]
        for player in order:
            shown[player] = image.flatten()[player]
            after = model(shown.reshape(image.shape)[None])[0, target]
            values[player] += (after - before).detach()
            before = after
        count += 1
    return values / count


def test_converges_to_the_exact_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    image = torch.rand(1, 1, 5).double() * 3
    values = exact(model, image[0], 1)
    error = {}
    for orders in (10, 600):
        result = create_analyzer("shapley_sampling", model, permutations=orders, patch=1).analyze(image, 1)
        error[orders] = float((result.flatten() - values).abs().max())
    assert error[600] < 0.03 * float(values.abs().max())
    assert error[600] < error[10] / 3


def test_every_order_is_exact_on_a_linear_model(counting) -> None:
    images = torch.rand(3, 1, 4, 4).double()
    result = create_analyzer("shapley_sampling", counting, permutations=1, baseline=0.5).analyze(images, 0)
    expected = counting.linear.weight[0].detach() * (images - 0.5).flatten(1)
    torch.testing.assert_close(result.flatten(1), expected)


@pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), patch=st.integers(1, 12), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_every_order_is_complete(seed, patch, dtype) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4)).to(dtype)
    images = torch.randn(2, 2, 7, 5).to(dtype)
    model(images)
    analyzer = create_analyzer("shapley_sampling", model, permutations=1, patch=patch, seed=seed, baseline=0.2)
    explanation = analyzer.explain(images, 1, strict=True)
    change = (model(images) - model(torch.full_like(images, 0.2)))[:, 1].detach()
    torch.testing.assert_close(explanation.expected, change, rtol=1e-4, atol=1e-6)


def test_tokens_can_be_players() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    tokens = torch.rand(2, 3, 4).double()
    result = create_analyzer("shapley_sampling", model, patch=(1, 4), permutations=2).analyze(tokens, 1)
    parts = (model[1].weight[1].detach() * tokens.flatten(1)).reshape(2, 3, 4)
    torch.testing.assert_close(result, parts.mean(2, keepdim=True).expand(2, 3, 4))


def test_invalid_options_are_refused(network, images) -> None:
    for options in ({"permutations": 0}, {"patch": 0}, {"patch": (1, 2, 3, 4)}):
        with pytest.raises(ConfigError, match="expected a whole number.*at least 1|patch has 4 sizes"):
            create_analyzer("shapley_sampling", network, **options).analyze(images)


def test_memory_is_independent_of_the_number_of_orders(counting) -> None:
    images = torch.rand(20, 1, 4, 4).double()
    create_analyzer("shapley_sampling", counting, permutations=2).analyze(images)
    create_analyzer("shapley_sampling", counting, permutations=20).analyze(images)
    assert len(counting.sizes) == 4 + 30 + 4 + 300  # two of each four compare an image in the batch with itself alone
    assert max(counting.sizes) <= 32
    assert counting.bytes[1] <= counting.bytes[0] + 15 * 20 * 8 + 1000  # plus the scores along one order


def test_only_long_work_shows_progress(counting, monkeypatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(terminal.Tracker, "update", lambda self, done, note="": told.append(done))
    images = torch.rand(1, 1, 4, 4).double()
    analyzer = create_analyzer("shapley_sampling", counting, permutations=10)
    monkeypatch.setattr("pellucid.attribution._trials.monotonic", lambda: 0.0)
    analyzer.analyze(images)
    assert told == []
    clock = count(step=2)  # two seconds pass between looks at the clock
    monkeypatch.setattr("pellucid.attribution._trials.monotonic", lambda: float(next(clock)))
    analyzer.analyze(images)
    assert told == [number * 15 for number in range(1, 10)] + [150] * (told[-1] == 150)
