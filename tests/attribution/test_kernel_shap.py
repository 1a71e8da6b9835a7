"""KernelSHAP: exact values by enumeration, captum's regression, coverage of the standard errors, and refusals."""

from itertools import permutations
from math import comb

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution._segments import patches_of
from pellucid.attribution.kernel_shap import Design
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.seeding import generator

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")


class Game(nn.Module):
    """A game whose worth of each coalition of the shown players is drawn at random; players are inputs of 0 or 1."""

    def __init__(self, players: int, seed: int = 0) -> None:
        super().__init__()
        worth = torch.randn(2**players, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("worth", worth)
        self.register_buffer("bits", 2 ** torch.arange(players))

    def forward(self, x: Tensor) -> Tensor:
        return self.worth[((x > 0.5).long() * self.bits).sum(1)]


def shapley_values(game: Game, target: int = 0) -> Tensor:
    """Shapley values as weighted marginal contributions over all coalitions."""
    players, worth = len(game.bits), game.worth[:, target]
    values = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        for coalition in range(2**players):
            if not coalition >> player & 1:
                size = bin(coalition).count("1")
                weight = 1 / (players * comb(players - 1, size))
                values[player] += weight * (worth[coalition | 1 << player] - worth[coalition])
    return values


@pytest.mark.parametrize("players", range(1, 10))
def test_all_coalitions_give_the_shapley_values(players) -> None:
    game, x = Game(players, players), torch.ones(1, players, dtype=torch.float64)
    explanation = create_analyzer("kernel_shap", game, patch=1).explain(x, "all", strict=True)
    for target in (0, 1):
        torch.testing.assert_close(explanation.relevance[0, target], shapley_values(game, target))
    assert not explanation.details["standard_error"].any()
    assert int(explanation.evaluations) == max(1, 2**players - 1) + 1  # all but the full one, and the image itself


def test_the_oracle_is_the_mean_over_all_orders() -> None:
    game = Game(4)
    means = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4)):
        coalition = 0
        for player in order:
            means[player] += (game.worth[coalition | 1 << player, 0] - game.worth[coalition, 0]) / 24
            coalition |= 1 << player
    torch.testing.assert_close(shapley_values(game), means)


def test_agrees_with_captums_regression_of_all_coalitions(network, images, targets) -> None:
    patches = patches_of((1, 10, 10), (1, 5, 4))
    count = int(patches.max()) + 1
    rows = [[bool(number >> place & 1) for place in range(count)] for number in range(1, 2**count - 1)]
    coalitions = torch.tensor(rows)

    def kernel(original: Tensor, perturbed: Tensor, shown: Tensor, **_: object) -> Tensor:
        size = int(shown.sum())
        # the ends, with captum's weight for the constraints
        return torch.tensor(1e6 if size in (0, count) else (count - 1) / (comb(count, size) * size * (count - size)))

    def drawn(*_: object, **__: object):
        yield torch.zeros(1, count)
        yield torch.ones(1, count)
        yield from coalitions.double()[:, None]

    def to_input(shown: Tensor, original: Tensor, **_: object) -> Tensor:
        return torch.where(shown[0].bool()[patches], original, torch.full_like(original, 0.1))

    regression = captum.attr.LimeBase(
        network,
        interpretable_model=captum._utils.models.linear_model.SkLearnLinearRegression(),
        similarity_func=kernel,
        perturb_func=drawn,
        perturb_interpretable_space=True,
        from_interp_rep_transform=to_input,
        to_interp_rep_transform=None,
    )
    analyzer = create_analyzer("kernel_shap", network, patch=(5, 4), baseline=0.1)
    ours = analyzer.analyze(images[:2], targets[:2]) * patches.flatten().bincount()[patches]
    for number in range(2):
        theirs = regression.attribute(images[[number]], target=int(targets[number]), n_samples=2**count)
        scale = float(theirs.abs().max())
        expected = theirs[0].double()[patches]
        torch.testing.assert_close(ours[number], expected, rtol=0, atol=1e-5 * scale)


def estimates(model: nn.Module, x: Tensor, coalitions: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Values and standard errors of a model with baseline 0, (seed, player), without the checks of an analyzer."""
    results = []
    for seed in range(seeds):
        design = Design.of(x.numel(), coalitions, generator(seed, "test"))
        with torch.no_grad():
            differences = model(design.pairs * x) - model(~design.pairs * x)
            change = (model(x[None]) - model(0 * x[None]))[:, 0]
        results.append([each[0] for each in design.solve(differences, change)])
    return torch.stack([values for values, _ in results]), torch.stack([errors for _, errors in results])


def curved(players: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(players, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    return model, 2 * torch.randn(players, dtype=torch.float64)


@pytest.mark.parametrize(("players", "coalitions"), [(14, 60), (14, 200), (12, 600)])
def test_standard_errors_match_the_spread_over_seeds(players, coalitions) -> None:
    model, x = curved(players)
    values, errors = estimates(model, x, coalitions, 200)
    exact = estimates(model, x, 2**players, 1)[0][0]
    ratio = float((errors.square().mean(0).sqrt() / values.std(0)).mean())
    assert 0.9 < ratio < 1.5  # HC3 errs on the large side, the more so for few coalitions
    inside = float(((values - exact).abs() <= 1.96 * errors).double().mean())
    assert 0.92 < inside < 0.995, inside
    # least squares with random rows has a bias of order 1 / coalitions, which is smaller than the standard error
    bias = (values.mean(0) - exact).abs() / values.std(0)
    assert float(bias.max()) < 0.3 + 30 / coalitions


def test_sixteen_times_the_coalitions_quarter_the_error() -> None:
    model, x = curved(14)
    exact = estimates(model, x, 2**14, 1)[0]
    few, many = (float((estimates(model, x, number, 30)[0] - exact).norm()) for number in (100, 1600))
    assert many < few / 3.5


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), patch=st.integers(2, 8), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_sum_is_exact_for_few_coalitions(seed, patch, dtype) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(45, 4)).to(dtype)
    images = torch.randn(2, 2, 7, 5).to(dtype)
    analyzer = create_analyzer("kernel_shap", model, patch=patch, seed=seed, baseline=0.2, coalitions=60)
    explanation = analyzer.explain(images, 1, strict=True)
    change = (model(images) - model(torch.full_like(images, 0.2)))[:, 1].detach()
    torch.testing.assert_close(explanation.expected, change, rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(players=st.integers(2, 20), budget=st.integers(80, 900), seed=st.integers(0, 99))
def test_designs_follow_the_kernel(players, budget, seed) -> None:
    design = Design.of(players, budget, generator(seed, "test"))
    sizes = design.pairs.sum(1)
    assert 2 * len(design.pairs) <= budget
    assert bool(((sizes >= 1) & (sizes <= players // 2)).all())
    assert float(design.weights.sum()) == pytest.approx(1)
    enumerated = design.pairs[: len(design.pairs) - design.sampled]
    assert len(enumerated.unique(dim=0)) == len(enumerated)
    if not design.sampled:
        assert len(design.pairs) == 2 ** (players - 1) - 1
    kernel = [(1 if 2 * k == players else 2) / (k * (players - k)) for k in range(1, players // 2 + 1)]
    first = float(design.weights[: len(enumerated)][sizes[: len(enumerated)] == 1].sum())
    assert first == pytest.approx(kernel[0] / sum(kernel))
    for size in range(1, players // 2 + 1):  # the sizes of drawn coalitions are stratified
        share, drawn = float(design.weights[sizes == size].sum()), float(design.weights[-1])
        assert share == pytest.approx(kernel[size - 1] / sum(kernel), abs=2.01 * drawn if design.sampled else 1e-9)


def test_too_few_coalitions_are_refused(network, images) -> None:
    with pytest.raises(ConfigError, match="199 coalitions for 50 segments.*coalitions=500, or at least 200"):
        create_analyzer("kernel_shap", network, patch=(1, 2), coalitions=199).analyze(images)
    with pytest.raises(ConfigError, match="option coalitions of KernelShap is 0"):
        create_analyzer("kernel_shap", network, coalitions=0)


def test_labels_of_scikit_image_are_a_mask(network, images) -> None:
    mask = patches_of(images.shape[2:], (2, 3)).int()
    own = create_analyzer("kernel_shap", network, segments=mask.numpy()).analyze(images, 0)
    assert torch.equal(own, create_analyzer("kernel_shap", network, segments=mask).analyze(images, 0))
    with pytest.raises(ShapeError, match=r"mask of shape .* and dtype torch\.float64 .*; expected integer labels"):
        create_analyzer("kernel_shap", network, segments=mask.numpy() / 2).analyze(images, 0)
