"""Metrics of signals, volumes and tables; the oracle is the same metric on images of one row, or a formula by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import pellucid
from pellucid import create_analyzer
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.evaluation import METRICS, Case, Explainer
from pellucid.evaluation._removal import removed, substitute
from pellucid.evaluation._similarity import similarity
from pellucid.evaluation.continuity import Continuity

METHODS = ["input_x_gradient", "deeplift"]
EVERY = [name for name in METRICS.names() if name != "roar"]
MASKED = ("pointing_game", "relevance_mass", "relevance_rank")
WITHOUT_NEIGHBORS = {
    "continuity": {"pixels": 0},
    "insertion": {"removal": "zero"},
    "road": {"removal": "zero"},
    "random_logit": {"kind": "spearman"},
    "selectivity": {"patch_pixels": 1},
}


def network(inputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()


def some(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).double()


def measured(x: Tensor, metrics: list[object], masks: Tensor | None) -> dict[tuple[str, str], list[float]]:
    evaluation = pellucid.evaluate(network(x[0].numel()), x, None, METHODS, metrics, masks=masks)
    assert {name for name in evaluation.refused if name != "sobel"} == set()
    return {(row.method, row.metric): row.value for row in evaluation.rows if row.method != "sobel"}


@pytest.mark.parametrize(
    ("shape", "plane"), [((4, 2, 12), (4, 2, 1, 12)), ((4, 2, 1, 4, 5), (4, 2, 4, 5))], ids=["signal", "volume"]
)
def test_values_are_those_of_images_with_an_axis_of_length_one(shape, plane) -> None:
    # a shift along the axis of length one empties the input, and a cube is no square, so these are tested below
    chosen = [METRICS[name]() for name in EVERY if name != "continuity"]
    x, places = some(*shape), (shape[0], *shape[2:])
    masks = some(*places) > 0.6
    own = measured(x, chosen, masks)
    other = measured(x.reshape(plane), chosen, masks.reshape(plane[0], *plane[2:]))
    assert own.keys() == other.keys()
    assert own == pytest.approx(other, rel=1e-6, abs=1e-9, nan_ok=True)


def test_values_of_tables_are_those_of_images_of_one_row() -> None:
    chosen = [METRICS[name](**WITHOUT_NEIGHBORS.get(name, {})) for name in EVERY]
    x, masks = some(5, 7), some(5, 7) > 0.5
    own = measured(x, chosen, masks)
    other = measured(x.reshape(5, 1, 1, 7), chosen, masks.reshape(5, 1, 7))
    assert own.keys() == other.keys()
    assert own == pytest.approx(other, rel=1e-6, abs=1e-9, nan_ok=True)


def test_deletion_of_a_table_is_a_loop_over_its_features() -> None:
    model, x = network(6), some(3, 6)
    targets = model(x).argmax(1)
    relevance = create_analyzer("input_x_gradient", model).analyze(x, targets)
    areas: list[float] = []
    for row, target, scores in zip(x, targets, relevance, strict=True):
        row, probabilities = row.clone(), []
        for feature in [None, *scores.argsort(descending=True).tolist()]:
            if feature is not None:
                row[feature] = 0
            probabilities.append(model(row[None]).softmax(1)[0, target].item())
        areas.append(np.trapezoid(probabilities, dx=1 / 6))
    metric = METRICS["deletion"](steps=6)
    result = metric.measure(
        Case(model, x, targets), Explainer(create_analyzer("input_x_gradient", model), Case(model, x, targets))
    )
    assert result.values.tolist() == pytest.approx(areas)


def test_continuity_shifts_along_every_axis() -> None:
    model, x = network(24), some(3, 2, 12)
    targets = model(x).argmax(1)
    analyzer, case = create_analyzer("gradient", model), Case(model, x, targets)
    own = analyzer.analyze(x, targets)
    largest = torch.zeros(3).double()
    for shifted in (
        torch.cat([torch.zeros(3, 2, 2).double(), x[..., :-2]], 2),
        torch.cat([x[..., 2:], torch.zeros(3, 2, 2).double()], 2),
    ):
        change = (analyzer.analyze(shifted, targets) - own).abs().sum((1, 2)) / own.abs().sum((1, 2))
        largest = torch.maximum(largest, change / (shifted - x).flatten(1).norm(dim=1))
    result = Continuity(pixels=2, noises=0).measure(case, Explainer(analyzer, case))
    torch.testing.assert_close(result.values, largest)


def test_removed_parts_of_a_signal_are_interpolated() -> None:
    x = some(2, 3, 15)
    is_removed = torch.zeros(2, 15, dtype=torch.bool)
    is_removed[0, [3, 4, 5, 9]] = is_removed[1, [0, 1, 13, 14]] = True
    result, times = removed(x, is_removed, "linear"), np.arange(15)
    for own, mask, signal in zip(result, is_removed, x, strict=True):
        for channel, before in zip(own, signal, strict=True):
            expected = np.interp(times, times[~mask.numpy()], before[~mask].numpy())
            assert channel.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 20), (2, 1, 9, 10), (1, 2, 6, 7, 8)])
def test_blur_and_mean_run_along_all_spatial_axes(shape) -> None:
    x = some(*shape)
    sigma = max(0.1 * max(shape[2:]), 0.5)
    expected = [[gaussian_filter(channel, sigma, mode="mirror", radius=int(3 * sigma)) for channel in one] for one in x]
    torch.testing.assert_close(substitute(x, "blur"), torch.as_tensor(np.array(expected)))
    means = x.flatten(2).mean(2)
    torch.testing.assert_close(substitute(x, "mean").flatten(2)[:, :, 0], means)
    mask = some(shape[0], *shape[2:]) > 0.5
    assert torch.equal(removed(x, mask, "zero"), x * ~mask[:, None])


def test_structural_similarity_of_signals_by_hand() -> None:
    first, second = some(2, 1, 30), some(2, 1, 30) ** 2
    result = similarity(first, second, "ssim")
    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weights /= weights.sum()
    for value, one, two in zip(result, first[:, 0].numpy(), second[:, 0].numpy(), strict=True):
        one, two = ((signal - signal.min()) / (signal.max() - signal.min()) for signal in (one, two))
        scores = []
        for start in range(20):
            own, other = one[start : start + 11], two[start : start + 11]
            mean, mean2 = weights @ own, weights @ other
            spread, spread2 = weights @ own**2 - mean**2, weights @ other**2 - mean2**2
            both = weights @ (own * other) - mean * mean2
            scores.append(
                (2 * mean * mean2 + 1e-4)
                * (2 * both + 9e-4)
                / ((mean**2 + mean2**2 + 1e-4) * (spread + spread2 + 9e-4))
            )
        assert float(value) == pytest.approx(np.mean(scores))


def test_infidelity_removes_intervals_and_cubes() -> None:
    for shape in ((2, 1, 8), (2, 1, 4, 4, 4)):
        x = some(*shape)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2)).double()
        metric = METRICS["infidelity"](perturbation="square", is_scaled=False)
        # of a linear model, the gradient predicts the effect of every perturbation
        evaluation = pellucid.evaluate(linear, x, None, ["gradient"], [metric])
        assert evaluation.rows[0].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("insertion", "removal='zero'"),
        ("road", "removal='zero'"),
        ("random_logit", "kind='spearman'"),
    ],
)
def test_metrics_that_need_neighbors_refuse_tables_with_a_way_out_that_works(name, option) -> None:
    x = some(4, 6)
    with pytest.raises(ShapeError, match=f"'{name}' cannot measure a table.*{option}"):
        pellucid.evaluate(network(6), x, None, METHODS, [name])
    key, value = option.replace("'", "").split("=")
    pellucid.evaluate(network(6), x, None, METHODS, [METRICS[name](**{key: value})])
    assert "table" not in METRICS[name]().accepts
    assert METRICS[name]().about()["accepts"] == ["image", "signal", "volume"]


def test_roar_of_signals_and_tables() -> None:
    for shape in ((6, 2, 8), (6, 9)):
        x = some(*shape)
        metric = METRICS["roar"](removal="zero", shares=(0.5,))
        evaluation = pellucid.evaluate(
            network(x[0].numel()).float(),
            x.float(),
            None,
            ["gradient"],
            [metric],
            training=(x.float(), torch.arange(6) % 3),
        )
        assert 0 <= evaluation.rows[0].value <= 1


@pytest.mark.slow
def test_every_default_metric_measures_signals_and_the_table_has_a_figure() -> None:
    evaluation = pellucid.evaluate(network(24), some(5, 2, 12), methods=METHODS)
    assert set(evaluation.metrics) == set(pellucid.evaluation.DEFAULT_METRICS)
    assert "sobel" not in evaluation.methods
    assert "deeplift" in evaluation.to_csv()
    assert evaluation.figure() is not None


@pytest.mark.parametrize("shape", [(4,), (2, 1, 2, 2, 2, 2), (0, 3), (4, 0)])
def test_other_shapes_are_refused(shape) -> None:
    with pytest.raises(ShapeError, match=r"tables|signals|at least one value"):
        pellucid.evaluate(network(4), torch.zeros(shape), None, ["gradient"], ["completeness"])


def test_prototypes_of_other_inputs_are_refused() -> None:
    for shape in ((2, 12), (7,), (1, 4, 4, 4)):
        with pytest.raises(ConfigError, match="image_shape"):
            pellucid.prototypes(network(int(np.prod(shape))), [0], image_shape=shape, steps=2)


def test_the_documentation_lists_the_metrics_that_need_options_for_tables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page.partition("## Signals, volumes and tables")[2].partition("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in section.splitlines() if "| only with" in line)
    listed = set(re.findall(r"`(\w+)`", rows)) - {"pointing_game"}
    assert listed == {name for name in METRICS.names() if "table" not in METRICS[name]().accepts}
    assert all({"signal", "image", "volume"} <= METRICS[name]().accepts for name in METRICS.names())
