"""Influence compared with leave-one-out refits, hand-computed gradients, and retraining."""

import copy
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.diagnostics import Influence, Projection, self_influence, tracin, trak, trak_scores
from pellucid.errors import ConfigError, ModelError, ShapeError

Set = tuple[Tensor, Tensor]


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_and_labels(count: int, classes: int = 3, seed: int = 0, size: int = 4) -> Set:
    random = draw(seed)
    labels = torch.randint(classes, (count,), generator=random)
    images = torch.rand(count, 1, size, size, generator=random)
    images[torch.arange(count), 0, labels] += 1
    return images, labels


def linear(classes: int = 3, size: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, classes)).double()


# --- leave-one-out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_trak_with_leverage_equals_leave_one_out_of_a_linear_regression(ridge: float, seed: int) -> None:
    random = draw(seed)
    rows, test = (torch.randn(count, 5, generator=random, dtype=torch.float64) for count in (20, 4))
    values = torch.randn(20, generator=random, dtype=torch.float64)

    def fit(kept: Tensor) -> Tensor:
        gram = rows[kept].T @ rows[kept] + ridge * torch.eye(5, dtype=torch.float64)
        return torch.linalg.solve(gram, rows[kept].T @ values[kept])

    everything = torch.arange(20)
    whole = fit(everything)
    left_out = torch.stack([test @ (whole - fit(everything[everything != row])) for row in everything], 1)
    scores = trak_scores(rows, test, values - rows @ whole, ridge, leverage=True)
    torch.testing.assert_close(scores, left_out, rtol=1e-9, atol=1e-9)


def test_without_leverage_the_scores_add_up_to_the_change_of_a_newton_step() -> None:
    random = draw(0)
    rows, test = (torch.randn(count, 3, generator=random, dtype=torch.float64) for count in (9, 2))
    values = torch.randn(9, generator=random, dtype=torch.float64)
    weights = torch.zeros(3, dtype=torch.float64)
    # one step of Newton from zero weights reaches the least squares solution
    scores = trak_scores(rows, test, values - rows @ weights)
    torch.testing.assert_close(scores.sum(1), test @ torch.linalg.lstsq(rows, values).solution)


def newton(images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Fit a logistic regression of two classes with weights for the images; returns the margin's coefficients."""
    rows = torch.cat([images.flatten(1), torch.ones(len(images), 1, dtype=torch.float64)], 1)
    coefficients = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(30):
        probabilities = (rows @ coefficients).sigmoid()
        slope = rows.T @ (weights * (labels - probabilities)) - 0.1 * coefficients
        curvature = (rows.T * (weights * probabilities * (1 - probabilities))) @ rows
        coefficients += torch.linalg.solve(curvature + 0.1 * torch.eye(len(curvature), dtype=torch.float64), slope)
    return coefficients


def test_trak_predicts_leaving_images_out_of_a_logistic_regression() -> None:
    random = draw(3)
    images, labels = torch.randn(60, 1, 1, 3, generator=random).double(), torch.arange(60) % 2
    images[:, 0, 0, 0] += labels - 0.5
    test = torch.randn(5, 1, 1, 3, generator=random).double()

    def logits(coefficients: Tensor, points: Tensor) -> Tensor:
        return points.flatten(1) @ coefficients[:-1] + coefficients[-1]

    whole = newton(images, labels, torch.ones(60).double())
    kept = [torch.ones(60).double().index_fill_(0, torch.tensor([row]), 0.0) for row in range(60)]
    actual = torch.stack([logits(whole, test) - logits(newton(images, labels, one), test) for one in kept], 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()
    # the margin of class 1 is the difference of the logits
    state = {
        "1.weight": torch.stack([torch.zeros(3).double(), whole[:-1]]),
        "1.bias": torch.stack([torch.zeros(()).double(), whole[-1]]),
    }
    ones = torch.ones(5, dtype=torch.int64)
    result = trak(model, [state], images, labels, test, ones, projection=None, ridge=0.05, leverage=True)
    for estimate, drop in zip(result.scores.double(), actual, strict=True):
        assert torch.corrcoef(torch.stack([estimate, drop]))[0, 1] > 0.9
        assert (estimate.sign() == drop.sign()).double().mean() > 0.8


# --- TracIn -------------------------------------------------------------------------------------------------------


def test_tracin_equals_hand_computed_products_of_gradients() -> None:
    (images, labels), (test, targets) = images_and_labels(7), images_and_labels(3, seed=1)
    model, rates = linear(), [0.5, 0.2]
    states = [linear(seed=seed).state_dict() for seed in (1, 2)]
    expected = torch.zeros(3, 7, dtype=torch.float64)
    for rate, state in zip(rates, states, strict=True):
        # the gradient of the loss is (p − one-hot) times the image, and (p − one-hot) for the bias
        residuals, points = [], []
        for some, own in ((test, targets), (images, labels)):
            rows = some.double().flatten(1)
            p = (rows @ state["1.weight"].T + state["1.bias"]).softmax(1)
            residuals.append(p - F.one_hot(own, 3))
            points.append(rows)
        expected += rate * (residuals[0] @ residuals[1].T) * (points[0] @ points[1].T + 1)
    result = tracin(model, states, images, labels, test, targets, learning_rates=rates, projection=None)
    torch.testing.assert_close(result.scores.double(), expected, rtol=1e-6, atol=1e-7)
    assert (result.projection_error, result.checkpoints, result.parameters) == (0.0, 2, 51)


def test_a_step_of_gradient_descent_lowers_the_loss_by_the_score() -> None:
    (images, labels), (test, targets) = images_and_labels(4), images_and_labels(2, seed=1)
    model, rate = linear(), 1e-5
    state = copy.deepcopy(model.state_dict())
    scores = tracin(model, [state], images, labels, test, targets, learning_rates=[1.0], projection=None).scores
    for row in range(4):
        model.load_state_dict(state)
        model.zero_grad()
        F.cross_entropy(model(images[[row]].double()), labels[[row]]).backward()
        before = F.cross_entropy(model(test.double()), targets, reduction="none")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        drop = (before - F.cross_entropy(model(test.double()), targets, reduction="none")) / rate
        torch.testing.assert_close(scores[:, row].double(), drop.detach(), rtol=1e-3, atol=1e-4)


def test_self_influence_is_the_diagonal_of_tracin() -> None:
    images, labels = images_and_labels(6)
    model = linear()
    states = [linear(seed=seed).state_dict() for seed in (1, 2)]
    pairs = tracin(model, states, images, labels, images, labels, learning_rates=[0.3, 0.1], projection=None)
    own = self_influence(model, states, images, labels, learning_rates=[0.3, 0.1])
    torch.testing.assert_close(own, pairs.scores.diagonal())


def test_mislabeled_images_have_the_largest_self_influence() -> None:
    images, labels = images_and_labels(80)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    wrong = labels.clone()
    wrong[:4] = (labels[:4] + 1) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), wrong).backward()
        optimizer.step()
    own = self_influence(model, [model.state_dict()], images, wrong)
    assert sorted(own.topk(4).indices.tolist()) == [0, 1, 2, 3]


# --- both ---------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def test_trak_of_several_checkpoints_averages_kernels_and_residuals() -> None:
    (images, labels), (test, targets) = images_and_labels(30), images_and_labels(3, seed=1)
    model = linear()
    states = [linear(seed=seed).state_dict() for seed in (1, 2)]

    def single(state: dict[str, Tensor]) -> Influence:
        return trak(model, [state], images, labels, test, targets, projection=None, ridge=0.2)

    residuals = []
    for state in states:
        model.load_state_dict(state)
        p = model(images.double()).softmax(1).gather(1, labels[:, None])[:, 0]
        residuals.append((1 - p).detach())
    kernels = [single(state).scores.double() / own for state, own in zip(states, residuals, strict=True)]
    result = trak(model, states, images, labels, test, targets, projection=None, ridge=0.2)
    torch.testing.assert_close(result.scores.double(), sum(kernels) / 2 * sum(residuals) / 2, rtol=1e-5, atol=1e-8)
    assert result.ridges == (single(states[0]).ridges[0], single(states[1]).ridges[0])


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
def test_projected_scores_approach_the_exact_ones(kind: str) -> None:
    (images, labels), (test, targets) = images_and_labels(20), images_and_labels(4, seed=1)
    model = network()
    arguments = (model, [model.state_dict()], images, labels, test, targets)
    exact = tracin(*arguments, learning_rates=[1.0], projection=None).scores
    lengths = [
        self_influence(model, [model.state_dict()], *some).sqrt() for some in ((test, targets), (images, labels))
    ]
    errors = []
    for seed in range(30):
        projection = Projection(64, kind=kind, seed=seed)
        result = tracin(*arguments, learning_rates=[1.0], projection=projection)
        errors.append((result.scores - exact) / (lengths[0][:, None] * lengths[1]))
        assert result.projection_error == math.sqrt(2 / 64)
    spread = torch.stack(errors)
    assert spread.mean().abs() < 0.02
    # the bound is on the standard deviation; 30 draws estimate it to about 13%
    assert spread.std(0).max() < 1.5 * math.sqrt(2 / 64)
    assert spread.std() > 0.5 * math.sqrt(1 / 64)


def test_results_are_reproducible_and_the_model_stays_unmodified() -> None:
    (images, labels), (test, targets) = images_and_labels(12), images_and_labels(2, seed=1)
    model = network().train()
    state = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    first, second = (trak(model, [state], images, labels, test, targets) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_bytes_give_the_scores_of_their_floats() -> None:
    images, labels = images_and_labels(12)
    stored = (images * 120).byte()
    model = network()
    arguments = {"learning_rates": [1.0], "projection": None}
    by_bytes = tracin(model, [model.state_dict()], stored, labels, stored[:2], labels[:2], **arguments)
    floats = stored.float() / 255
    by_floats = tracin(model, [model.state_dict()], floats, labels, floats[:2], labels[:2], **arguments)
    torch.testing.assert_close(by_bytes.scores, by_floats.scores)


def test_selected_parameters_give_the_scores_of_their_gradients() -> None:
    images, labels = images_and_labels(9)
    model = network()
    state = model.state_dict()
    arguments = {"learning_rates": [1.0], "projection": None}
    parts = [
        tracin(model, [state], images, labels, images, labels, parameters=names, **arguments).scores
        for names in (["0.weight", "0.bias", "1.weight", "1.bias"], ["5.weight", "5.bias"])
    ]
    whole = tracin(model, [state], images, labels, images, labels, **arguments).scores
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_an_image_is_its_own_strongest_proponent() -> None:
    images, labels = images_and_labels(60)
    model = network()
    result = trak(model, [model.state_dict()], images, labels, images, labels)
    own = result.proponents(1).indices[:, 0] == torch.arange(60)
    assert own.double().mean() > 0.6


# --- the result ---------------------------------------------------------------------------------------------------


def result_of(scores: list[list[float]]) -> Influence:
    values = torch.tensor(scores)
    labels = torch.arange(values.shape[1]) % 2
    pictures = torch.rand(values.shape[1], 1, 5, 5)
    targets = torch.zeros(len(values), dtype=torch.int64)
    return Influence(values, targets, labels, "trak", 1, 10, images=pictures[: len(values)], train_images=pictures)


def test_proponents_and_opponents_are_signed_and_sorted() -> None:
    result = result_of([[0.5, -2.0, 3.0, 0.5, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert result.proponents(3).indices.tolist() == [[2, 0, 3], [0, 1, 2]]
    assert result.opponents(2).indices.tolist() == [[1, 4], [0, 1]]
    assert result.opponents(2).scores.tolist() == [[-2.0, -1.0], [1.0, 1.0]]
    assert result.proponents(99).indices.shape == (2, 5)
    with pytest.raises(ConfigError, match="at least 1"):
        result.proponents(0)


def test_figure_leaves_out_scores_of_the_wrong_sign() -> None:
    figure = result_of([[0.5, -2.0, 3.0, 0.5, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]).figure(
        count=3, classes=["odd", "even"]
    )
    # two images, 3 + 2 and 3 + 0 training images
    assert len(figure.axes) == 2 + 5 + 3
    texts = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
    assert "odd +3" in texts
    assert "even −2" in texts
    bare = Influence(torch.ones(1, 1), torch.zeros(1).long(), torch.zeros(1).long(), "trak", 1, 3)
    with pytest.raises(ConfigError, match="no images"):
        bare.figure()


# --- errors -------------------------------------------------------------------------------------------------------


def test_invalid_arguments_are_explained() -> None:
    images, labels = images_and_labels(5)
    model = linear()
    state = model.state_dict()

    def run(states: object = None, **changes: object) -> Influence:
        arguments = {"train_images": images, "train_labels": labels, "images": images, "targets": labels, **changes}
        return trak(model, [state] if states is None else states, **arguments)

    with pytest.raises(ConfigError, match="empty"):
        run([])
    with pytest.raises(ModelError, match=r"lacks 1\.bias"):
        run([{"1.weight": state["1.weight"]}])
    with pytest.raises(ModelError, match=r"unknown tensors other"):
        run([{**state, "other": torch.ones(1)}])
    with pytest.raises(ModelError, match=r"other shapes for 1\.bias"):
        run([{**state, "1.bias": torch.ones(1)}])
    with pytest.raises(ModelError, match="no parameter 'head'"):
        run(parameters=["head"])
    with pytest.raises(ShapeError, match="below 3"):
        run(targets=labels + 3)
    with pytest.raises(ModelError, match="gradient of image 1 is not finite"):
        run(train_images=images.clone().index_fill_(0, torch.tensor([1]), torch.nan))
    with pytest.raises(ConfigError, match="singular"):
        run(projection=None, ridge=0.0)
    with pytest.raises(ConfigError, match="one learning rate"):
        tracin(model, [state], images, labels, images, labels, learning_rates=[0.1, 0.2])
    with pytest.raises(ConfigError, match="one learning rate"):
        self_influence(model, [state], images, labels, learning_rates=[])


def test_one_output_and_control_flow_are_refused() -> None:
    images, labels = images_and_labels(3, classes=1)
    single = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ShapeError, match="expected logits"):
        self_influence(single, [single.state_dict()], images, labels)

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x.flatten(1))
            return out if out.sum() > 0 else -out

    model = Branching()
    with pytest.raises(ModelError, match="vmap cannot differentiate"):
        self_influence(model, [model.state_dict()], images, labels)


def test_half_precision_does_not_overflow() -> None:
    images, labels = images_and_labels(6)
    model, exact = linear().half(), linear().double()
    exact.load_state_dict(model.state_dict())
    images = 200 * images.abs()
    given = (images, labels, images[:2], labels[:2])
    half, double = (
        tracin(one, [one.state_dict()], *given, learning_rates=[0.1], projection=None).scores for one in (model, exact)
    )
    assert float(double.abs().max()) > 6553  # the largest float16 times the learning rate
    assert bool(half.isfinite().all())
    torch.testing.assert_close(half, double, rtol=0.02, atol=0.02 * float(double.abs().max()))


def test_images_that_require_gradients_give_plain_scores() -> None:
    images, labels = images_and_labels(4)
    model = linear()
    given = ([model.state_dict()], images.requires_grad_(), labels)
    result = trak(model, *given, images, labels)
    assert not result.scores.requires_grad
    assert not self_influence(model, *given).requires_grad
    result.figure()


def test_arguments_that_would_give_meaningless_scores_are_refused() -> None:
    images, labels = images_and_labels(5)
    model = linear()
    given = ([model.state_dict()], images, labels)
    for rate in (float("nan"), -1.0, "x"):
        with pytest.raises(ConfigError, match="the argument learning_rates of self_influence is"):
            inspect.unwrap(self_influence)(model, *given, learning_rates=[rate])
        with pytest.raises(ConfigError, match="the argument learning_rates of tracin is"):
            inspect.unwrap(tracin)(model, *given, images, labels, learning_rates=[rate])
        with pytest.raises(ConfigError, match="the argument ridge of trak is"):
            inspect.unwrap(trak)(model, *given, images, labels, ridge=rate)
    with pytest.raises(ShapeError, match=r"dtype torch\.int64; pass floats"):
        inspect.unwrap(trak)(model, [model.state_dict()], (255 * images).long(), labels, images, labels)
    with pytest.raises(ConfigError, match="parameters is empty"):
        trak(model, *given, images, labels, parameters=[])
    twice = trak(model, *given, images, labels, parameters=["1.bias", "1.bias"])
    torch.testing.assert_close(twice.scores, trak(model, *given, images, labels, parameters=["1.bias"]).scores)


def test_leverages_of_one_and_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="leverage of training row 0 is 1"):
        inspect.unwrap(trak_scores)(torch.eye(3), torch.eye(3), torch.ones(3), leverage=True)
    with pytest.raises(ShapeError, match=r"got shapes \(5, 2\), \(3, 3\)"):
        inspect.unwrap(trak_scores)(torch.randn(5, 2), torch.eye(3))
    with pytest.raises(ShapeError, match=r"\(2, 1\); expected"):
        inspect.unwrap(trak_scores)(torch.eye(2), torch.eye(2), torch.ones(2, 1))
