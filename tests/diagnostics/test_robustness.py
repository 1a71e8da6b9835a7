"""Robustness: corruptions, adversarial radii and the movement of explanations, against independent derivations."""

import inspect
import math

import pytest
import torch
from scipy.stats import binomtest, spearmanr
from torch import Tensor, nn

import pellucid
from pellucid.core.errors import ConfigError, DataError, ModelError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.diagnostics._balls import Ball
from pellucid.diagnostics.robustness import (
    CORRUPTIONS,
    NORMS,
    Attack,
    MovementSearch,
    adversarial_radius,
    corrupt,
    corruption_accuracy,
    explanation_movement,
    first_order_radius,
    map_distance,
)

QUICK = Attack(steps=8, starts=3, rounds=8)


def linear(classes: int = 3, pixels: int = 16, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).to(dtype)


def nonlinear(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(6 * 36, classes))


def pictures(count: int = 6, channels: int = 2, size: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(3))


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images).argmax(1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strength_zero_changes_nothing(name: str) -> None:
    images = pictures()
    assert torch.equal(corrupt(images, name, 0.0), images)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-2.5, 3.0)])
def test_corruptions_grow_with_strength_and_stay_in_range(name: str, pixel_range: tuple[float, float]) -> None:
    low, high = pixel_range
    # smooth images, in which a longer shift is a larger change
    places = torch.linspace(0, 3, 24)
    images = (torch.sin(places)[:, None] * torch.cos(0.7 * places)[None] / 2 + 0.5).expand(20, 3, 24, 24)
    images = images * (high - low) + low
    changes = []
    for strength in CORRUPTIONS[name].strengths:
        changed = corrupt(images, name, strength, pixel_range=pixel_range, seed=4)
        assert low <= float(changed.min())
        assert float(changed.max()) <= high
        assert changed.shape == images.shape
        changes.append(float((changed - images).square().mean()))
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_depend_on_seed_and_position_alone(name: str) -> None:
    images, strength = pictures(5, 3, (7, 12)), CORRUPTIONS[name].strengths[2]
    whole = corrupt(images, name, strength, seed=1)
    assert torch.equal(whole, corrupt(images, name, strength, seed=1))
    parts = [corrupt(images[at : at + 1], name, strength, seed=1, first=at) for at in range(5)]
    torch.testing.assert_close(torch.cat(parts), whole)
    if name in ("noise", "rotation", "shift"):
        assert not torch.equal(whole, corrupt(images, name, strength, seed=2))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_scale_with_the_pixel_range(name: str) -> None:
    images, strength = pictures(), CORRUPTIONS[name].strengths[1]
    scaled = corrupt(5 * images - 2, name, strength, pixel_range=(-2, 3))
    torch.testing.assert_close((scaled + 2) / 5, corrupt(images, name, strength), rtol=1e-4, atol=1e-5)


def test_noise_blur_shift_rotation_and_contrast_are_what_they_say() -> None:
    gray = torch.full((40, 1, 20, 20), 0.5)
    assert float(corrupt(gray, "noise", 0.1).std()) == pytest.approx(0.1, rel=0.02)
    dot = torch.zeros(1, 1, 41, 41)
    dot[..., 20, 20] = 1
    blurred = corrupt(dot, "blur", 2 / 41)[0, 0]
    places = torch.arange(41.0) - 20
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    # the variance of the blurred dot along each axis, up to the cut at three standard deviations
    assert float((blurred.sum(0) * places**2).sum()) == pytest.approx(4, rel=0.05)
    assert float((blurred.sum(1) * places**2).sum()) == pytest.approx(4, rel=0.05)
    wide = torch.zeros(8, 1, 21, 41)
    wide[..., 10, 30] = 1
    rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
    for name, strength in (("shift", 4 / 21), ("rotation", 30.0)):
        moved = corrupt(wide, name, strength)[:, 0]
        mass = moved.sum((1, 2))
        x, y = (moved * columns).sum((1, 2)) / mass, (moved * rows).sum((1, 2)) / mass
        if name == "shift":
            torch.testing.assert_close(torch.hypot(x - 10, y), torch.full((8,), 4.0), atol=0.2, rtol=0)
        else:
            torch.testing.assert_close(torch.hypot(x, y), torch.full((8,), 10.0), atol=0.2, rtol=0)
            torch.testing.assert_close(torch.atan2(y, x).abs(), torch.full((8,), math.pi / 6), atol=0.02, rtol=0)
            assert set(y.sign().tolist()) == {-1.0, 1.0}
    images = pictures()
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(corrupt(images, "contrast", 0.25) - mean, 0.75 * (images - mean))


def test_wrong_arguments_are_refused() -> None:
    images, model, labels = pictures(), nonlinear(), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(UnknownName, match="blur"):
        corrupt(images, "blur_2", 0.1)
    with pytest.raises(ConfigError, match="at least 0"):
        corrupt(images, "blur", -0.1)
    with pytest.raises(ConfigError, match="pixel range"):
        corrupt(images, "blur", 0.1, pixel_range=(1, 0))
    with pytest.raises(DataError, match="pass pixel_range"):
        adversarial_radius(model, 255 * images, labels)
    with pytest.raises(ShapeError, match="one label each"):
        first_order_radius(model, images, labels[:2])
    with pytest.raises(ShapeError, match="4 classes"):
        corruption_accuracy(model, images, labels + 4)
    with pytest.raises(DataError, match="no images"):
        corruption_accuracy(model, images[:0], labels[:0])
    with pytest.raises(DataError, match="image 1"):
        adversarial_radius(model, images.index_fill(0, torch.tensor([1]), torch.nan), labels)
    with pytest.raises(ConfigError, match="finite"):
        explanation_movement(model, lambda x, _: x, images, torch.full((6,), torch.inf))


def test_accuracy_counts_correct_images_with_wilson_intervals() -> None:
    model, images = nonlinear(), pictures(40)
    labels = predicted(model, images)
    result = corruption_accuracy(model, images, labels, strengths={"noise": (0.2, 0.5), "blur": (0.1,)}, seed=5)
    expected = (predicted(model, corrupt(images, "noise", 0.5, seed=5)) == labels).sum()
    assert result.correct["noise"].tolist()[0] == 40
    assert int(result.correct["noise"][2]) == int(expected) < 40
    assert result.strengths == {"noise": (0.0, 0.2, 0.5), "blur": (0.0, 0.1)}
    low, high = result.interval("noise")
    for place, count in enumerate(result.correct["noise"].tolist()):
        interval = binomtest(count, 40).proportion_ci(method="wilson")
        assert (float(low[place]), float(high[place])) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_logits_that_are_nan_count_as_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    result = corruption_accuracy(Broken(), pictures(4), torch.zeros(4, dtype=torch.int64), strengths={"blur": (0.1,)})
    assert result.correct["blur"].tolist() == [0, 0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 14])
def test_linear_models_have_exact_radii(norm: str, classes: int) -> None:
    model, images = linear(classes), pictures(5, 1, (4, 4))
    labels = predicted(model, images)
    weight, logits = model[1].weight.detach().double(), model(images).detach().double()
    expected = []
    for row, own in enumerate(labels.tolist()):
        gaps = [
            (float(logits[row, own] - logits[row, other]), weight[own] - weight[other])
            for other in range(classes)
            if other != own
        ]
        expected.append(min(gap / float(slope.norm() if norm == "l2" else slope.abs().sum()) for gap, slope in gaps))
    estimate = first_order_radius(model, images, labels, norm=norm)
    assert estimate.radius.tolist() == pytest.approx(expected, rel=1e-5)
    # the pixel range is too wide to bind
    found = adversarial_radius(model, images, labels, norm=norm, pixel_range=(-50, 50), attack=QUICK)
    assert found.radius.tolist() == pytest.approx(expected, rel=2e-3)
    assert (found.radius >= estimate.radius * (1 - 1e-5)).all()
    assert torch.equal(found.predictions, estimate.nearest)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-1.0, 2.0)])
def test_adversarial_images_change_the_prediction_at_the_reported_distance(norm, pixel_range) -> None:
    model, images = nonlinear(), pictures(8) * (pixel_range[1] - pixel_range[0]) + pixel_range[0]
    labels = predicted(model, images)
    found = adversarial_radius(model.train(), images, labels, norm=norm, pixel_range=pixel_range, attack=QUICK)
    assert model.training
    assert torch.equal(predicted(model, found.images), found.predictions)
    assert (found.predictions != labels).all()
    for one, image, changed in zip(found.radius, images, found.images, strict=True):
        # alone, as well as in its batch
        assert predicted(model, changed[None]) != predicted(model, image[None])
        change = (changed.double() - image.double()).flatten()
        assert float(one) == pytest.approx(float(change.norm() if norm == "l2" else change.abs().max()), rel=1e-6)
    assert pixel_range[0] <= float(found.images.min())
    assert float(found.images.max()) <= pixel_range[1]
    again = adversarial_radius(model, images, labels, norm=norm, pixel_range=pixel_range, attack=QUICK)
    assert torch.equal(found.images, again.images)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_radius_agrees_with_a_grid_in_two_dimensions(norm: str) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 3))
    nn.init.normal_(model[1].weight, std=6)
    nn.init.uniform_(model[1].bias, -4, 4)
    with torch.no_grad():
        # no class wins everywhere
        model[3].bias -= model(torch.rand(500, 1, 1, 2)).mean(0)
    images = torch.rand(12, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    labels = predicted(model, images)
    places = torch.linspace(0, 1, 801)
    grid = torch.cartesian_prod(places, places)
    others = predicted(model, grid.view(-1, 1, 1, 2))
    found = adversarial_radius(model, images, labels, norm=norm)
    for image, label, radius in zip(images.flatten(1), labels, found.radius, strict=True):
        changes = grid[others != label] - image
        expected = float((changes.norm(dim=1) if norm == "l2" else changes.abs().amax(1)).min())
        # the grid overestimates by up to one step, and the search by its tolerance
        assert expected - 2 / 800 <= float(radius) <= 1.03 * expected + 1e-6


def test_misclassified_images_have_radius_zero() -> None:
    model, images = nonlinear(), pictures(6)
    labels = predicted(model, images)
    labels[2] = (labels[2] + 1) % 4
    found = adversarial_radius(model, images, labels, attack=QUICK)
    assert found.radius[2] == found.first_order.radius[2] == 0
    assert torch.equal(found.images[2], images[2])
    assert found.predictions[2] == predicted(model, images)[2]
    assert (found.radius[[0, 1, 3, 4, 5]] > 0).all()


def test_constant_predictions_have_infinite_radii() -> None:
    model = linear()
    nn.init.zeros_(model[1].weight)
    images = pictures(2, 1, (4, 4))
    found = adversarial_radius(model, images, predicted(model, images), attack=QUICK)
    assert found.radius.isinf().all()
    assert found.first_order.radius.isinf().all()
    assert torch.equal(found.images, images)


def test_the_nearest_class_is_sought_among_the_leading_ones() -> None:
    model, images = linear(30), pictures(4, 1, (4, 4))
    labels = predicted(model, images)
    whole = first_order_radius(model, images, labels, leading=30)
    part = first_order_radius(model, images, labels, leading=5)
    assert (part.radius >= whole.radius * (1 - 1e-6)).all()
    top = model(images).topk(5).indices
    assert all(int(near) in row.tolist() for near, row in zip(part.nearest, top, strict=True))
    chosen = (whole.nearest[:, None] == top).any(1)
    torch.testing.assert_close(part.radius[chosen], whole.radius[chosen])


def test_models_without_gradients_or_with_nan_are_refused() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :3]

    class Bad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] / 0

    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UnsupportedOperation):
        adversarial_radius(Cut(), pictures(2), labels)
    with pytest.raises(ModelError):
        adversarial_radius(Bad(), pictures(2), labels)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_stays_within_ball_and_range(norm: str) -> None:
    ball, images, radii = Ball(norm, (0.0, 1.0)), pictures(6), torch.rand(6)
    changed = ball.project(images, images + 3 * torch.randn(6, 2, 8, 8), radii)
    assert (ball.size(changed - images) <= radii * (1 + 1e-5)).all()
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    near = images + 1e-4 * (0.5 - images)
    torch.testing.assert_close(ball.project(images, near, radii + 1), near)


def test_distance_of_maps_agrees_with_scipy() -> None:
    first, second = torch.randn(2, 3, 1, 5, 5).round(decimals=1)
    distance, rank = map_distance(first, second)
    for at in range(3):
        assert float(rank[at]) == pytest.approx(spearmanr(first[at].flatten(), second[at].flatten()).statistic)
        cosine = torch.nn.functional.cosine_similarity(first[at].flatten(), second[at].flatten(), 0)
        assert float(distance[at]) == pytest.approx(1 - float(cosine), abs=1e-6)
    zeros = torch.zeros(1, 4)
    assert [float(one) for one in map_distance(zeros, zeros)] == [0.0, 1.0]
    assert float(map_distance(zeros, torch.tensor([[1.0, 0, 0, 0]]))[0]) == 1.0


@pytest.mark.slow
def test_explanations_move_more_under_attack_than_under_noise_and_the_prediction_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    images, radii = pictures(5), torch.tensor([0.02, 0.05, 0.05, 0.1, 0.0])
    explain = pellucid.create_analyzer("gradient", model).analyze
    moved = explanation_movement(model, explain, images, radii, search=MovementSearch(steps=15))
    targets = predicted(model, images)
    assert torch.equal(predicted(model, moved.images), targets)
    assert ((moved.images - images).flatten(1).abs().amax(1) <= radii + 1e-6).all()
    torch.testing.assert_close(moved.maps, explain(images, targets))
    torch.testing.assert_close(moved.moved_maps, explain(moved.images, targets))
    distance, rank = map_distance(moved.maps, moved.moved_maps)
    torch.testing.assert_close(moved.attack, distance)
    torch.testing.assert_close(moved.attack_rank, rank)
    assert (moved.attack[:4] > moved.noise[:4]).all()
    # a radius of 0 moves nothing
    assert float(moved.attack[4]) == float(moved.noise[4]) == 0
    again = explanation_movement(model, explain, images, radii, search=MovementSearch(steps=15))
    assert torch.equal(again.images, moved.images)


def test_changes_of_the_prediction_are_rejected() -> None:
    model, images = linear(2, 128), pictures(3)
    gap = model(images).detach().diff(dim=1)[:, 0]
    with torch.no_grad():
        model[1].bias[0] += gap[0] + 1e-6  # the first image is on the boundary, so that half of all noise crosses it
    moved = explanation_movement(model, lambda x, _: x.square(), images, torch.full((3,), 0.1))
    assert torch.equal(predicted(model, moved.images), predicted(model, images))
    with pytest.raises(ModelError, match="not finite"):
        explanation_movement(model, lambda x, _: x / 0, images, torch.full((3,), 0.1))
    with pytest.raises(ShapeError, match="one map per image"):
        explanation_movement(model, lambda x, _: x[:1], images, torch.full((3,), 0.1))


def test_models_in_double_precision() -> None:
    model, images = linear(dtype=torch.float64), pictures(3, 1, (4, 4))
    labels = predicted(model, images.double())
    found = adversarial_radius(model, images, labels, attack=QUICK)
    assert found.images.dtype == torch.float32
    assert (found.radius > 0).all()
    assert corruption_accuracy(model, images, labels, strengths={"blur": (0.1,)}).correct["blur"][0] == 3


def test_adversarial_images_of_bytes_are_not_rounded() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 2, bias=False))
    images, labels = (255 * pictures(4)).byte(), torch.zeros(4, dtype=torch.uint8)
    with torch.no_grad():
        model[1].weight.normal_(generator=torch.Generator().manual_seed(0))
        labels = model(images.float()).argmax(1).byte()
    found = inspect.unwrap(adversarial_radius)(model, images, labels, pixel_range=(0, 255))
    assert found.images.dtype == torch.float32
    with torch.no_grad():
        assert bool((model(found.images).argmax(1) != labels).all())
    changes = (found.images.double() - images.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(changes, found.radius)
    assert float(found.radius.min()) > 0


def test_labels_and_logits_of_other_types_are_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x.flatten(1)[:, :3], 1

    images, labels = pictures(2), torch.zeros(2, dtype=torch.int64)
    for measure in (corruption_accuracy, adversarial_radius, first_order_radius):
        with pytest.raises(ShapeError, match=r"dtype torch\.float32; expected images"):
            inspect.unwrap(measure)(nonlinear(), images, labels.float())
        with pytest.raises(ModelError, match="a value of type tuple; expected logits"):
            inspect.unwrap(measure)(Pair(), images, labels)
        with pytest.raises(ShapeError, match="labels is of type list"):
            inspect.unwrap(measure)(nonlinear(), images, [0, 0])
    for strengths in ({}, {"blur": ()}):
        with pytest.raises(ConfigError, match="at least one corruption with at least one strength"):
            inspect.unwrap(corruption_accuracy)(nonlinear(), images, labels, strengths=strengths)
    with pytest.raises(UnknownName, match="blurr"):
        corruption_accuracy(nonlinear(), images, labels, strengths={"blurr": ()})
    with pytest.raises(ShapeError, match=r"shape \(2, 8, 8\); expected \(batch"):
        inspect.unwrap(corrupt)(images[0], "noise", 0.1)
