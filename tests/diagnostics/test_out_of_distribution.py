"""Scores, AUROC and distances against closed forms and scikit-learn."""

import inspect
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors
from torch import nn

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.densities import DENSITIES
from pellucid.diagnostics import (
    SHIFTS,
    EmbeddingReference,
    detect,
    energy,
    maximum_logit,
    maximum_softmax,
    negative_log_density,
    ood_scores,
    separation,
    shift_images,
)
from pellucid.diagnostics._embedding import ClassGaussians, shrinkage_of
from pellucid.training.descent import descend


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- scores of the logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0])
def test_energy_is_the_negative_log_sum_of_exponentials(temperature: float) -> None:
    logits = normal(20, 5)
    expected = [-temperature * math.log(sum(math.exp(v / temperature) for v in row)) for row in logits.tolist()]
    assert energy(logits, temperature).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_constant_added_to_all_logits() -> None:
    logits = normal(20, 5)
    for score in (energy, maximum_logit):
        torch.testing.assert_close(score(logits + 3), score(logits) - 3)
    torch.testing.assert_close(maximum_softmax(logits + 3), maximum_softmax(logits))


def test_energy_is_bounded_by_the_maximum_logit() -> None:
    logits = 30 * normal(50, 7)
    assert (energy(logits) <= maximum_logit(logits)).all()
    assert (energy(logits) >= maximum_logit(logits) - math.log(7)).all()
    # a low temperature leaves nothing but the maximum
    torch.testing.assert_close(energy(logits, 1e-3), maximum_logit(logits), atol=2e-3, rtol=0)


def test_softmax_of_two_classes_is_a_logistic_function() -> None:
    margins = torch.tensor([0.0, 1.0, 50.0, 300.0], dtype=torch.float64)
    scores = maximum_softmax(torch.stack([margins, torch.zeros(4, dtype=torch.float64)], 1))
    assert scores.tolist() == pytest.approx([1 / (1 + math.exp(margin)) for margin in margins.tolist()], rel=1e-12)
    # 1 − p would be 0 for the last two, a tie
    assert scores[3] < scores[2]


def test_invalid_logits() -> None:
    logits = torch.zeros(3, 2)
    logits[1, 0] = torch.nan
    for score in (energy, maximum_logit, maximum_softmax, ood_scores):
        with pytest.raises(DataError, match="1 of 3 images"):
            score(logits)
        with pytest.raises(ShapeError, match=r"\(image, class\)"):
            score(torch.zeros(3, 0))
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="temperature"):
            energy(torch.zeros(1, 2), temperature)


# --- distances in the embedding --------------------------------------------------------------------------------


@pytest.fixture
def training() -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of 300 images of three classes in 6 dimensions with correlated features."""
    labels = torch.arange(300) % 3
    return normal(300, 6) @ normal(6, 6, seed=1) + 2 * normal(3, 6, seed=2)[labels], labels


def centered(embedding: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    means = torch.stack([embedding[labels == label].mean(0) for label in labels.unique()])
    return (embedding - means[labels.unique(return_inverse=True)[1]]).numpy(), means.numpy()


def test_mahalanobis_distances_are_those_of_scikit_learn(training: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = training
    queries = 3 * normal(40, 6, seed=5)
    residuals, means = centered(embedding, labels)
    estimate = LedoitWolf(assume_centered=True).fit(residuals)
    expected = np.min([estimate.mahalanobis(queries.numpy() - mean) for mean in means], 0)
    reference = EmbeddingReference.fit(embedding, labels)
    np.testing.assert_allclose(reference.scores(queries)["mahalanobis"], expected, rtol=1e-10)
    assert reference.gaussians is not None
    assert reference.gaussians.shrinkage == pytest.approx(estimate.shrinkage_, rel=1e-10)


def test_without_shrinkage_the_covariance_is_the_empirical_one(
    training: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.diagnostics._embedding.shrinkage_of", lambda *_: 0.0)
    embedding, labels = training
    residuals, means = centered(embedding, labels)
    estimate = EmpiricalCovariance(assume_centered=True).fit(residuals)
    distances = ClassGaussians.fit(embedding, labels).distances(embedding)
    for label, mean in enumerate(means):
        np.testing.assert_allclose(distances[:, label], estimate.mahalanobis(embedding.numpy() - mean), rtol=1e-9)
    # the mean squared distance from the own class is the dimension
    assert float(distances[torch.arange(300), labels].mean()) == pytest.approx(6)


@pytest.mark.parametrize(("images", "features"), [(5, 30), (50, 50), (400, 3)])
def test_shrinkage_is_that_of_ledoit_and_wolf(images: int, features: int) -> None:
    points = normal(images, features) * torch.arange(1.0, features + 1)
    expected = LedoitWolf(assume_centered=True).fit(points.numpy()).shrinkage_
    assert shrinkage_of(points, points.T @ points / images) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("neighbors", [1, 10, 299])
def test_neighbors_are_those_of_scikit_learn(training: tuple[torch.Tensor, torch.Tensor], neighbors: int) -> None:
    embedding, labels = training
    queries = normal(1500, 6, seed=4)  # more than are searched at once
    search = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(
        embedding.numpy() / np.linalg.norm(embedding, axis=1, keepdims=True)
    )
    distances, _ = search.kneighbors(queries.numpy() / np.linalg.norm(queries, axis=1, keepdims=True))
    scores = EmbeddingReference.fit(embedding, labels, neighbors=neighbors).scores(queries)["nearest_neighbors"]
    np.testing.assert_allclose(scores, distances[:, -1], rtol=1e-6, atol=1e-9)


def test_distance_of_a_training_image_from_itself_is_zero(training: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = training
    scores = EmbeddingReference.fit(embedding.float(), labels, neighbors=1).scores(embedding.float())
    # float32 alone would give about 3e-4
    assert float(scores["nearest_neighbors"].max()) < 1e-9


def test_distances_do_not_depend_on_the_scale_of_the_embedding(training: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = training
    queries = normal(20, 6, seed=4)
    one, other = (EmbeddingReference.fit(k * embedding, labels).scores(k * queries) for k in (1.0, 250.0))
    for name, scores in one.items():
        torch.testing.assert_close(other[name], scores, rtol=1e-8, atol=1e-10)


def test_fewer_images_than_neighbors_and_classes_without_images() -> None:
    embedding, labels = normal(4, 3), torch.tensor([0, 0, 7, 7])
    reference = EmbeddingReference.fit(embedding, labels, neighbors=10)
    assert reference.neighbors == 4
    assert reference.gaussians is not None
    assert reference.gaussians.classes.tolist() == [0, 7]


@pytest.mark.parametrize("embedding", [normal(3, 4), torch.ones(6, 4), torch.zeros(6, 4)], ids=str)
def test_without_variance_within_classes_there_is_no_mahalanobis_distance(embedding: torch.Tensor) -> None:
    labels = torch.arange(len(embedding)) % 3
    reference = EmbeddingReference.fit(embedding, labels)
    assert "does not vary" in reference.refused["mahalanobis"]
    scores = reference.scores(normal(5, 4))
    assert list(scores) == ["nearest_neighbors"]
    assert scores["nearest_neighbors"].isfinite().all()


def test_dead_features_are_no_obstacle(training: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = training
    embedding = torch.cat([embedding, torch.zeros(300, 2, dtype=torch.float64)], 1)
    reference = EmbeddingReference.fit(embedding, labels)
    alive = embedding[:1].clone()
    alive[0, 6] = 10.0
    plain, odd = (float(reference.scores(one)["mahalanobis"]) for one in (embedding[:1], alive))
    assert math.isfinite(odd)
    assert odd > 10 * plain


def test_invalid_embeddings(training: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = training
    with pytest.raises(ShapeError, match=r"300 embeddings but labels of shape \(299,\)"):
        EmbeddingReference.fit(embedding, labels[1:])
    with pytest.raises(ConfigError, match=r"neighbors.* is 0"):
        EmbeddingReference.fit(embedding, labels, neighbors=0)
    with pytest.raises(DataError, match="at least one training image"):
        EmbeddingReference.fit(embedding[:0], labels[:0])
    with pytest.raises(DataError, match="1 of 300 images"):
        EmbeddingReference.fit(torch.where(torch.arange(300)[:, None] == 5, torch.inf, embedding), labels)
    reference = EmbeddingReference.fit(embedding, labels)
    with pytest.raises(ShapeError, match="5 features, but those of the training images have 6"):
        reference.scores(embedding[:, 1:])
    with pytest.raises(ConfigError, match="reference is missing"):
        ood_scores(torch.zeros(300, 3), embedding)
    with pytest.raises(ShapeError, match="300 embeddings but 2 rows"):
        ood_scores(torch.zeros(2, 3), embedding, reference)
    wide = torch.zeros(2, 9000)
    assert "8,192" in EmbeddingReference.fit(wide, torch.tensor([0, 0])).refused["mahalanobis"]


# --- AUROC -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 5, 10_000])  # many and few ties
def test_auroc_is_that_of_scikit_learn(levels: int) -> None:
    draw = np.random.default_rng(levels)
    for _ in range(20):
        inside, outside = draw.integers(0, levels, draw.integers(1, 60)), draw.integers(0, levels, draw.integers(1, 60))
        result = separation(torch.from_numpy(inside).double(), torch.from_numpy(outside).double())
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        assert result.auroc == pytest.approx(roc_auc_score(truth, np.concatenate([inside, outside])))
        statistic = mannwhitneyu(outside, inside).statistic
        assert result.auroc == pytest.approx(statistic / (len(inside) * len(outside)))
        assert 0 <= result.low <= result.auroc <= result.high <= 1
        assert (result.inside, result.outside) == (len(inside), len(outside))


def test_fpr_is_a_point_of_the_roc_curve() -> None:
    draw = np.random.default_rng(0)
    for size in (40, 57, 200):
        inside, outside = draw.integers(0, 30, size), draw.integers(10, 40, 90)
        result = separation(torch.from_numpy(inside).double(), torch.from_numpy(outside).double())
        # in the literature, in-distribution images are the positives, with higher values; so all signs change
        truth = np.repeat([1, 0], [size, 90])
        false, true, _ = roc_curve(truth, -np.concatenate([inside, outside]), drop_intermediate=False)
        assert result.fpr == pytest.approx(false[np.argmax(true >= 0.95)])


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, 3.0])
def test_auroc_of_two_gaussians(shift: float) -> None:
    # the difference of two independent standard normal variables has the variance 2
    expected = NormalDist().cdf(shift / math.sqrt(2))
    result = separation(normal(20_000), normal(20_000, seed=1) + shift)
    assert result.auroc == pytest.approx(expected, abs=0.008)
    assert result.low < expected < result.high
    assert result.fpr == pytest.approx(NormalDist().cdf(NormalDist().inv_cdf(0.95) - shift), abs=0.02)


@pytest.mark.parametrize(("shift", "size"), [(0.0, 40), (1.5, 40), (2.5, 150)])
def test_intervals_cover_the_true_area(shift: float, size: int) -> None:
    expected = NormalDist().cdf(shift / math.sqrt(2))
    draws = torch.Generator().manual_seed(3)
    covered = 0
    for _ in range(400):
        inside, outside = torch.randn(2, size, generator=draws).double()
        result = separation(inside, outside + shift)
        covered += result.low <= expected <= result.high
    # 95%, with three standard errors of 400 trials
    assert 0.91 <= covered / 400 <= 0.985


def test_variance_is_that_of_resampling() -> None:
    inside, outside = normal(300), normal(200, seed=1) + 1
    draw = np.random.default_rng(0)
    areas = [
        separation(inside[draw.integers(0, 300, 300)], outside[draw.integers(0, 200, 200)]).auroc for _ in range(400)
    ]
    result = separation(inside, outside)
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (result.low, result.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_interval_of_perfect_separation_and_of_a_single_image() -> None:
    perfect = separation(torch.arange(100.0), torch.arange(100.0) + 200)
    assert (perfect.auroc, perfect.high, perfect.fpr) == (1.0, 1.0, 0.0)
    assert 0.95 < perfect.low < 0.999
    reverse = separation(torch.arange(100.0) + 200, torch.arange(100.0))
    assert (reverse.auroc, reverse.low, reverse.fpr) == (0.0, 0.0, 1.0)
    assert reverse.high == pytest.approx(1 - perfect.low)
    # with one image each, the limit solves (1 − a)² = z² a (1 − a), with the quantile z
    z = NormalDist().inv_cdf(0.975)
    single = separation(torch.zeros(1), torch.ones(1))
    assert (single.low, single.high) == (pytest.approx(1 / (1 + z**2)), pytest.approx(1.0))
    constant = separation(torch.zeros(50), torch.zeros(50))
    assert constant.auroc == 0.5
    assert constant.low < 0.45 < 0.55 < constant.high
    # more images narrow it
    assert separation(torch.zeros(500), torch.zeros(500)).low > constant.low


def test_auroc_does_not_change_under_increasing_functions() -> None:
    inside, outside = normal(50), normal(60, seed=1) + 1
    assert separation(inside.exp(), outside.exp()) == separation(inside, outside)
    # exchanging the samples and the direction gives the same area
    other = separation(-outside, -inside)
    assert other.auroc == pytest.approx(separation(inside, outside).auroc)


def test_invalid_scores() -> None:
    scores = torch.arange(4.0)
    with pytest.raises(DataError, match="2 of 4 scores in outside"):
        separation(scores, torch.tensor([1.0, torch.nan, torch.inf, 0.0]))
    with pytest.raises(DataError, match="inside has no scores"):
        separation(scores[:0], scores)
    with pytest.raises(ShapeError, match="one score per image"):
        separation(scores[None], scores)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ConfigError, match="level"):
            separation(scores, scores, level=level)


# --- tables ----------------------------------------------------------------------------------------------------


def test_best_score_has_the_highest_mean_area() -> None:
    inside = {"good": normal(40), "bad": normal(40, seed=1)}
    outside = {
        name: {"good": normal(30, seed=seed) + 3, "bad": normal(30, seed=seed + 1) - 1}
        for seed, name in ((2, "a"), (4, "b"))
    }
    result = detect(inside, outside)
    assert result.best == "good"
    expected = [[separation(inside[score], outside[name][score]).auroc for name in outside] for score in inside]
    assert result.auroc.tolist() == expected
    rows = result.to_dict()["rows"]
    assert [(row["score"], row["set"]) for row in rows] == [("good", "a"), ("good", "b"), ("bad", "a"), ("bad", "b")]
    figure = result.figure()
    assert [text.get_text() for text in figure.texts].count("highest mean AUROC") == 1
    assert f"{expected[1][0]:.3f}" in {text.get_text() for text in figure.texts}


def test_tables_need_the_same_scores() -> None:
    with pytest.raises(ConfigError, match="'noise' has the scores b, but"):
        detect({"a": torch.zeros(3)}, {"noise": {"b": torch.zeros(3)}})
    for inside, outside in (({}, {"noise": {}}), ({"a": torch.zeros(3)}, {})):
        with pytest.raises(ConfigError, match="at least one of each"):
            detect(inside, outside)


def test_a_classifier_of_gaussians_detects_points_far_away() -> None:
    """Points between two classes have a high energy; points far away, but on the side of a class, only a distance."""
    labels = torch.arange(1000) % 2
    direction = torch.tensor([4.0, 0.0], dtype=torch.float64)
    points = normal(2000, 2) + direction * (2 * labels.repeat(2) - 1)[:, None]
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        # the log posterior of two Gaussians of variance 1 at ± direction
        model.weight.copy_(torch.stack([-direction, direction]))
        model.bias.zero_()
        reference = EmbeddingReference.fit(points[:1000], labels)
        sets = {"between": normal(500, 2, seed=1), "beyond": normal(500, 2, seed=2) + 3 * direction}
        inside = ood_scores(model(points[1000:]), points[1000:], reference)
        result = detect(inside, {name: ood_scores(model(one), one, reference) for name, one in sets.items()})
    table = result.separations
    assert table["energy"]["between"].auroc > 0.98
    assert table["energy"]["beyond"].auroc < 0.02
    assert table["mahalanobis"]["between"].auroc > 0.98
    assert table["mahalanobis"]["beyond"].auroc > 0.98
    # the squared distance from a mean has a chi-squared distribution with two degrees of freedom, whose mean is 2
    assert float(inside["mahalanobis"].mean()) == pytest.approx(2, rel=0.1)


def test_negative_log_density_is_that_of_the_density() -> None:
    images = torch.randint(256, (60, 1, 5, 5), generator=torch.Generator().manual_seed(0)).byte()
    density = DENSITIES["gaussian_mixture"].fit(images, seed=0, minimise=descend, device=torch.device("cpu"))
    scores = negative_log_density(density, images / 255)
    torch.testing.assert_close(scores, -density.log_density(images / 255).double())
    assert negative_log_density(density, torch.zeros(0, 1, 5, 5)).shape == (0,)


# --- shifts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 9, 9), (2, 3, 7, 12), (2, 2, 1, 3)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_shifted_images_keep_shape_range_and_originals(shift: str, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 4 - 1
    before = images.clone()
    first, second = (shift_images(images, shift, torch.Generator().manual_seed(1), scale=(-1.0, 3.0)) for _ in range(2))
    assert first.shape == images.shape
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert -1 - 1e-6 <= float(first.min()) <= float(first.max()) <= 3 + 1e-6


def test_shuffled_images_have_the_same_patches() -> None:
    images = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    shuffled = shift_images(images, "shuffled", torch.Generator().manual_seed(0), scale=(0.0, 576.0))
    patches = [
        {
            tuple(one[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3].flatten().tolist())
            for row in range(4)
            for column in range(4)
        }
        for one in (images[0], shuffled[0])
    ]
    assert patches[0] == patches[1]
    assert not torch.equal(shuffled[0], images[0])
    # another order for each image
    assert not torch.equal(shuffled[0], shuffled[1] - (images[1] - images[0]))


def test_rows_beyond_the_last_patch_stay() -> None:
    images = torch.rand(1, 1, 9, 11)
    shuffled = shift_images(images, "shuffled", torch.Generator().manual_seed(0))
    assert torch.equal(shuffled[..., 8:, :], images[..., 8:, :])
    assert torch.equal(shuffled[..., 8:], images[..., 8:])


def test_rotated_and_inverted_images() -> None:
    images = torch.rand(2, 1, 6, 6)
    draws = torch.Generator()
    np.testing.assert_array_equal(shift_images(images, "rotated", draws), np.rot90(images.numpy(), axes=(2, 3)))
    torch.testing.assert_close(shift_images(images, "inverted", draws, scale=(-2.0, 1.0)), -1 - images)


def test_noise_has_its_share_of_the_range() -> None:
    images = torch.full((4, 1, 50, 50), 5.0)
    noisy = shift_images(images, "noisy", torch.Generator().manual_seed(0), scale=(-95.0, 105.0))
    sizes = (noisy - images).abs() / (0.3 * 200)
    cdf = NormalDist().cdf
    assert float((sizes < 1).float().mean()) == pytest.approx(cdf(1) - cdf(-1), abs=0.02)
    # beyond half of the range, noise is clipped
    assert float((sizes > 1.6666).float().mean()) == pytest.approx(2 * cdf(-1 / 0.6), abs=0.02)


def test_invalid_shifts() -> None:
    with pytest.raises(ConfigError, match="shift is 'blurred'"):
        shift_images(torch.rand(1, 1, 4, 4), "blurred", torch.Generator())
    with pytest.raises(ConfigError, match="scale"):
        shift_images(torch.rand(1, 1, 4, 4), "noisy", torch.Generator(), scale=(1.0, 1.0))


def test_images_that_cannot_be_shifted_are_refused() -> None:
    images, draws = torch.rand(2, 1, 8, 6), torch.Generator()
    for shift in SHIFTS:
        with pytest.raises(ShapeError, match=r"dtype torch\.uint8; expected floats"):
            inspect.unwrap(shift_images)((255 * images).byte(), shift, draws)
        with pytest.raises(ShapeError, match=r"shape \(1, 8, 6\)"):
            inspect.unwrap(shift_images)(images[0], shift, draws)
        with pytest.raises(DataError, match="outside the scale 0 to 1"):
            shift_images(255 * images, shift, draws)
        with pytest.raises(DataError, match="image 0 holds NaN"):
            shift_images(images * torch.nan, shift, draws)
        assert shift_images(images.half(), shift, draws).dtype == torch.float16


def test_labels_of_a_reference_are_class_indices() -> None:
    embedding, labels = torch.randn(20, 3), torch.arange(20) % 2
    for wrong in (labels[:, None], labels.float(), labels > 0):
        with pytest.raises(ShapeError, match="give one label per image, a class index"):
            inspect.unwrap(EmbeddingReference.fit)(EmbeddingReference, embedding, wrong)
    with pytest.raises(ShapeError, match="labels is of type list"):
        inspect.unwrap(EmbeddingReference.fit)(EmbeddingReference, embedding, labels.tolist())
    with pytest.raises(ShapeError, match="inside is of type list"):
        inspect.unwrap(separation)([1.0], torch.ones(1))


def test_neighbors_in_a_collapsed_embedding_are_exact() -> None:
    draws = torch.Generator().manual_seed(0)
    center = torch.randn(6, generator=draws, dtype=torch.float64)
    points = center + 1e-5 * torch.randn(200, 6, generator=draws, dtype=torch.float64)
    reference = EmbeddingReference.fit(points[:150], torch.arange(150) % 2, neighbors=3)
    scores = reference.scores(points[150:])["nearest_neighbors"]
    units = points / points.norm(dim=1, keepdim=True)
    expected = torch.cdist(units[150:], units[:150], compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, 2]
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=0)
