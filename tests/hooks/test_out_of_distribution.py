"""Out-of-distribution hook: its numbers follow from the network's outputs, and what is missing is said."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.hooks.conftest import logits_of, make_images, make_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pellucid.core.budget import BUDGETS, Budget
from pellucid.core.contracts import Artifact, ImageSet
from pellucid.core.preprocessing import Preprocessing
from pellucid.data.digits import read_digits
from pellucid.diagnostics import SHIFTS, energy
from pellucid.engine.tap import find_embedding
from pellucid.hooks import Scene
from pellucid.hooks._budget import SHARES
from pellucid.hooks._readings import Reader
from pellucid.hooks.out_of_distribution import DETAILS, OutOfDistributionHook
from pellucid.models._adapted import adapted

Maker = Callable[..., Scene]
LOGITS = ["softmax", "max_logit", "energy"]
DISTANCES = ["mahalanobis", "nearest_neighbors"]
DENSITIES = ["gaussian_mixture", "vae"]


@pytest.fixture
def figures() -> None:
    """Draw the figures, which take most of the time, in tests that request this."""


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "figures" not in request.fixturenames:
        for name in ("_figure", "_images_figure"):
            monkeypatch.setattr(f"pellucid.hooks.out_of_distribution.{name}", lambda *_: None)


@pytest.fixture
def fast_scene(make_scene: Maker) -> Maker:
    """Create a scene without densities, which take a second to fit."""

    def make(**changes: object) -> Scene:
        return make_scene(**{"fitted": no_density, **changes})

    return make


def no_density(name: str) -> object:
    from pellucid.core.errors import DataError

    raise DataError(f"no {name} here; try again")


def run(scene: Scene, **options: Any) -> tuple[Artifact, Artifact]:
    table, least_like = OutOfDistributionHook(**options).run(scene)
    return table, least_like


def areas(table: Artifact) -> dict[tuple[str, str], float]:
    return {(row["score"], row["set"]): row["auroc"] for row in table.numbers["rows"]}


@pytest.mark.slow  # fits a VAE
def test_table_has_every_score_and_set(make_scene: Maker, figures: None) -> None:
    scene = make_scene()
    table, _ = run(scene)
    numbers = table.numbers
    sets = [*SHIFTS, "digits"]
    assert list(numbers["scores"]) == [*LOGITS, *DISTANCES, *DENSITIES] == list(DETAILS)
    assert list(numbers["sets"]) == sets
    assert list(areas(table)) == [(score, name) for score in numbers["scores"] for name in sets]
    assert numbers["refused"] == numbers["unusable"] == {}
    for row in numbers["rows"]:
        assert 0 <= row["low"] <= row["auroc"] <= row["high"] <= 1
        assert (row["inside"], row["outside"]) == (30, 1000 if row["set"] == "digits" else 30)
    means = {score: np.mean([areas(table)[score, name] for name in sets]) for score in numbers["scores"]}
    assert numbers["best"] == max(means, key=lambda score: means[score])
    assert "the best score is" in table.caption
    for name, histogram in numbers["histograms"].items():
        totals = {key: sum(counts) for key, counts in histogram["counts"].items()}
        assert totals == {**dict.fromkeys(["test", *SHIFTS], 30), "digits": 1000}
        assert np.all(np.diff(histogram["edges"]) > 0), name
    assert table.figure is not None
    texts = [text.get_text() for text in table.figure.texts]
    assert all(name in texts for name in (*sets, *numbers["scores"]))


def test_likelihoods_are_those_of_the_density(make_scene: Maker) -> None:
    scene = make_scene()
    table, _ = run(scene, density_names=("gaussian_mixture",))
    assert list(table.numbers["scores"]) == [*LOGITS, *DISTANCES, "gaussian_mixture"]
    expected = -scene.density("gaussian_mixture").log_density(scene.test.floats())
    np.testing.assert_allclose(table.arrays["scores"][-1], expected, rtol=1e-5)


def test_energy_of_inverted_images_is_that_of_the_network(fast_scene: Maker) -> None:
    scene = fast_scene()
    table, _ = run(scene)
    energies = dict(zip(table.arrays["indices"].tolist(), table.arrays["scores"][2], strict=True))
    np.testing.assert_allclose(list(energies.values()), energy(scene.logits)[list(energies)], rtol=1e-6)
    # which test images are sources is not stored, but the number of pairs of all partitions is too large to hit by luck
    model = scene.model.eval()
    with torch.no_grad():
        inverted = energy(model(1 - scene.test.floats()))
    sources = sources_of(scene)
    truth = np.repeat([0, 1], [60 - len(sources), len(sources)])
    others = [index for index in range(60) if index not in sources]
    values = np.concatenate([energy(scene.logits)[others], inverted[sources]])
    assert areas(table)["energy", "inverted"] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)


def sources_of(scene: Scene) -> list[int]:
    from pellucid.hooks._ood_images import Sizes, choose_images

    sample = choose_images(scene, Sizes(10_000, 1000, 5000))
    return [int(index) for index in sample.test[sample.is_source]]


def test_sources_are_a_random_half_of_a_small_test_set(fast_scene: Maker) -> None:
    scene = fast_scene()
    sources = sources_of(scene)
    assert len(set(sources)) == 30
    assert sources != list(range(0, 60, 2))
    assert sources == sources_of(scene)
    assert sources != sources_of(replace(scene, seed=1))


def test_numbers_of_images_are_limited(fast_scene: Maker) -> None:
    table, least_like = run(fast_scene(), test_images=40, set_images=7, train_images=20, neighbors=3, shown=4)
    assert {(row["inside"], row["outside"]) for row in table.numbers["rows"]} == {(33, 7)}
    assert table.arrays["scores"].shape == (5, 40)
    assert (table.numbers["train_images"], table.numbers["neighbors"]) == (20, 3)
    assert all(len(one["indices"]) == 4 for one in least_like.numbers["least_like"].values())


def test_least_like_images_have_the_highest_scores(fast_scene: Maker, figures: None) -> None:
    scene = fast_scene()
    table, least_like = run(scene, shown=5)
    numbers = least_like.numbers
    assert list(numbers["least_like"]) == [*LOGITS, *DISTANCES]
    for row, one in zip(table.arrays["scores"], numbers["least_like"].values(), strict=True):
        order = sorted(range(60), key=lambda index, row=row: -row[index])[:5]
        np.testing.assert_allclose(row[one["indices"]], row[order])
        assert one["values"] == pytest.approx(row[order].tolist(), rel=1e-5)
        assert one["labels"] == scene.test.labels[one["indices"]].tolist()
        assert one["predictions"] == scene.logits[one["indices"]].argmax(1).tolist()
    union = sorted({index for one in numbers["least_like"].values() for index in one["indices"]})
    assert numbers["indices"] == union
    np.testing.assert_array_equal(least_like.arrays["thumbnails"][..., 0], scene.test.pixels[union, 0])
    assert least_like.figure is not None


def test_one_pass_reads_embedding_and_logits(fast_scene: Maker) -> None:
    scene = fast_scene(channels=3)
    reader = Reader.of(scene)
    images = scene.test.floats()
    calls = []
    handle = scene.model[0].register_forward_hook(lambda *_: calls.append(1))
    reading = reader.read([images[:40], images[40:]])
    handle.remove()
    assert len(calls) == 2
    torch.testing.assert_close(reading.logits, scene.logits)
    torch.testing.assert_close(reading.embedding, find_embedding(scene.model, images[:1]).read(images))


@pytest.mark.parametrize("layer", [None, "5", "model.5"])
def test_layers_of_wrapped_models_keep_their_names(fast_scene: Maker, layer: str | None) -> None:
    scene = fast_scene()
    wrapped = adapted(scene.model, Preprocessing(mean=(0.2,), std=(0.5,)))
    with torch.no_grad():
        logits = wrapped.eval()(scene.test.floats())
    scene = replace(scene, model=wrapped, logits=logits, embedding_layer=layer)
    reader, images = Reader.of(scene), scene.test.floats()
    assert reader.refused == {}
    expected = find_embedding(wrapped, images[:1], layer).read(images)
    torch.testing.assert_close(reader.read([images]).embedding, expected)


# --- what is missing -------------------------------------------------------------------------------------------


class WithoutLinear(nn.Module):
    """A convolution and a mean, and no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x).mean((2, 3))


def test_a_model_without_embedding(fast_scene: Maker, figures: None) -> None:
    table, least_like = run(fast_scene(model=WithoutLinear()))
    assert list(table.numbers["scores"]) == LOGITS
    assert all("linear layer" in table.numbers["refused"][name] for name in DISTANCES)
    assert table.figure is not None
    assert any(
        "No mahalanobis and nearest_neighbors: the model's forward pass" in text.get_text()
        for text in table.figure.texts
    )
    assert list(least_like.numbers["least_like"]) == LOGITS


def test_no_training_images(make_scene: Maker) -> None:
    table, _ = run(make_scene(train=None))
    assert list(table.numbers["scores"]) == LOGITS
    assert table.numbers["refused"] == dict.fromkeys([*DENSITIES, *DISTANCES], "no training images were given")
    assert table.numbers["train_images"] == 0


def test_densities_that_cannot_be_fitted(fast_scene: Maker) -> None:
    table, _ = run(fast_scene())
    assert table.numbers["refused"] == {name: f"no {name} here; try again" for name in DENSITIES}
    table, _ = run(fast_scene(test=shifted_set(), fitted=None))
    assert all("pixels in [0, 1]" in table.numbers["refused"][name] for name in DENSITIES)


def shifted_set() -> ImageSet:
    test = make_images(60, 1, (9, 9))
    return ImageSet(4 * test.floats() - 2, test.labels, scale=(-2.0, 2.0))


@pytest.mark.slow
def test_images_on_an_unknown_scale(fast_scene: Maker) -> None:
    # a network that undoes the scale sees the same images
    scene = fast_scene()
    other = replace(scene, model=nn.Sequential(Unscaled(), scene.model), test=shifted_set(), train=shifted_set())
    one, two = areas(run(scene)[0]), areas(run(other)[0])
    # noise is not rounded to bytes
    exact = [key for key in one if key[1] not in ("noisy", "digits")]
    assert exact
    assert [one[key] for key in exact] == pytest.approx([two[key] for key in exact], abs=1e-6)
    assert [one[key] for key in one] == pytest.approx([two[key] for key in one], abs=0.05)


class Unscaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 2) / 4


@pytest.mark.parametrize("classes", [1, pytest.param(2, marks=pytest.mark.slow), 1000])
def test_any_number_of_classes(fast_scene: Maker, classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 8), nn.ReLU(), nn.Linear(8, classes))
    test = make_images(40, 1, (9, 9), min(classes, 3))
    names = tuple(f"class {label}" for label in range(classes))
    scene = replace(fast_scene(model=model), test=test, train=test, logits=logits_of(model, test), classes=names)
    table, _ = run(scene)
    assert list(table.numbers["scores"]) == [*LOGITS, *DISTANCES]
    if classes == 1:
        # a single probability is always 1
        assert {value for (score, _), value in areas(table).items() if score == "softmax"} == {0.5}


def test_color_images_are_not_compared_with_digits(fast_scene: Maker) -> None:
    table, _ = run(fast_scene(channels=3))
    assert list(table.numbers["sets"]) == list(SHIFTS)


def test_gray_images_in_three_channels_are(fast_scene: Maker) -> None:
    scene = fast_scene(channels=3)
    gray = ImageSet(scene.test.pixels[:, :1].expand(-1, 3, -1, -1).contiguous(), scene.test.labels)
    table, _ = run(replace(scene, test=gray, logits=logits_of(scene.model, gray)))
    assert table.numbers["sets"]["digits"]["images"] == 1000


@pytest.mark.parametrize("size", [(8, 8), (28, 28)])
def test_digits_are_not_out_of_distribution_for_digits(fast_scene: Maker, size: tuple[int, int]) -> None:
    digits = read_digits(*size)[list(range(500, 540))]
    model = make_network(1, size)
    scene = replace(fast_scene(model=make_network(1, (9, 9))), model=model, test=digits, train=digits)
    scene = replace(scene, logits=logits_of(model, digits), classes=tuple("0123456789"))
    table, _ = run(scene)
    assert list(table.numbers["sets"]) == list(SHIFTS)


def test_images_with_nan_are_left_out_and_counted(fast_scene: Maker, figures: None) -> None:
    scene = fast_scene()
    logits = scene.logits.clone()
    logits[[3, 8]] = torch.nan
    table, least_like = run(replace(scene, logits=logits))
    assert table.numbers["unusable"] == {"test": 2}
    assert set(range(60)) - set(table.arrays["indices"].tolist()) == {3, 8}
    assert not {3, 8} & set(least_like.numbers["indices"])
    assert np.isfinite(table.arrays["scores"]).all()
    assert table.figure is not None
    assert any("Left out: 2 images" in text.get_text() for text in table.figure.texts)


def test_a_diverged_network_is_left_out(fast_scene: Maker) -> None:
    scene = fast_scene()
    (artifact,) = OutOfDistributionHook().run(replace(scene, logits=torch.full_like(scene.logits, torch.nan)))
    assert artifact.name == "left_out"
    assert "all test images" in artifact.caption
    with torch.no_grad():
        scene.model[7].bias.fill_(torch.inf)
    (artifact,) = OutOfDistributionHook().run(scene)
    assert "all out-of-distribution images" in artifact.caption


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_test_images(make_scene: Maker, count: int) -> None:
    scene = make_scene(count=1)
    (artifact,) = OutOfDistributionHook().run(
        replace(scene, test=scene.test[list(range(count))], logits=scene.logits[:count])
    )
    assert artifact.name == "left_out"
    assert "at least two" in artifact.caption


# --- budget ----------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(fast_scene: Maker) -> Callable[[Budget], Scene]:
    """Create a scene with a network of realistic cost under a budget."""

    def make(budget: Budget) -> Scene:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 24),
        )
        model.extend([nn.ReLU(), nn.Linear(24, 4)])
        test = make_images(300, 1, (12, 12))
        scene = fast_scene(model=make_network(1, (9, 9)), budget=budget)
        return replace(scene, model=model, test=test, train=test, logits=logits_of(model, test))

    return make


@pytest.mark.parametrize(
    "passes", [20, pytest.param(60, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.slow)]
)
def test_the_share_of_the_budget_is_kept(limited: Callable[[Budget], Scene], passes: int) -> None:
    budget = Budget("medium", images=200, classes=5, passes=passes)
    scene = limited(budget)
    _ = scene.embedding  # it has its own share
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scene.model(scene.test.floats([0]))
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        table, _ = run(scene)
    spent, share = counter.get_total_flops() / forward, SHARES["out_of_distribution"] * budget.image_passes
    assert 0.5 * share < spent <= share or len(table.arrays["indices"]) == 200
    assert set(table.arrays["indices"].tolist()) <= set(scene.embedded.tolist())
    assert all("budget" in table.numbers["refused"][name] for name in DENSITIES)
    assert list(table.numbers["scores"]) == [*LOGITS, *DISTANCES]


def test_a_tiny_budget_leaves_it_out(limited: Callable[[Budget], Scene]) -> None:
    for budget in (Budget("tiny", 2, 2, 20), Budget("small", 40, 2, 20)):
        (artifact,) = OutOfDistributionHook().run(limited(budget))
        assert artifact.name == "left_out"
        assert "budget" in artifact.numbers["reason"]


def test_a_model_without_embedding_under_a_budget(fast_scene: Maker) -> None:
    table, _ = run(fast_scene(model=WithoutLinear(), budget=BUDGETS["default"]))
    assert list(table.numbers["scores"]) == LOGITS
