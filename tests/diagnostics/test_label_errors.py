"""Label errors: the confident joint by hand, all scores derived again with numpy, and flipped labels that are found."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

import pellucid
from pellucid.diagnostics._confident_learning import (
    PSEUDO_EXAMPLES,
    calibrated_joint,
    class_thresholds,
    confident_joint,
    label_noise,
)
from pellucid.diagnostics._self_influence import last_layer_self_influence
from pellucid.errors import ConfigError, DataError, ShapeError


def random_case(seed: int, count: int = 60, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities and labels that agree in about two thirds of the examples."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=draws)
    logits = 2 * torch.randn(count, classes, generator=draws, dtype=torch.float64)
    logits[torch.arange(count), labels] += 2
    return logits.softmax(1), labels


@cache
def flipped_gaussians(count: int = 1500) -> tuple[torch.Tensor, ...]:
    """Return points in three clusters, exact probabilities, labels of which 5% are flipped, and the mask of these."""
    draws = torch.Generator().manual_seed(0)
    centers = 4.0 * torch.eye(3, dtype=torch.float64)
    truth = torch.randint(3, (count,), generator=draws)
    points = centers[truth] + torch.randn(count, 3, generator=draws, dtype=torch.float64)
    probabilities = (-((points[:, None] - centers) ** 2).sum(2) / 2).softmax(1)
    is_flipped = torch.rand(count, generator=draws) < 0.05
    labels = torch.where(is_flipped, (truth + 1) % 3, truth)
    return points, probabilities, labels, is_flipped


def test_confident_joint_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9], [0.8, 0.2]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    # means of the labels' own probabilities
    torch.testing.assert_close(class_thresholds(probabilities, labels), torch.tensor([0.6, 0.6]))
    counts = confident_joint(probabilities, labels)
    assert counts.tolist() == [[2, 1], [1, 2]]
    expected = torch.tensor([[2, 1], [1, 2]], dtype=torch.float64) / 6
    torch.testing.assert_close(calibrated_joint(counts, labels), expected)
    errors = pellucid.label_errors(probabilities, labels)
    assert errors.suspects == 2
    assert [(pair.given, pair.true, round(pair.count, 6)) for pair in errors.pairs] == [(0, 1, 1.0), (1, 0, 1.0)]
    assert sorted(errors.ranking[:2].tolist()) == [2, 5]
    assert errors.suggested[[2, 5]].tolist() == [1, 0]


def test_examples_below_all_thresholds_are_not_counted():
    probabilities = torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.1, 0.9]])
    labels = torch.tensor([0, 0, 1])
    counts = confident_joint(probabilities, labels)
    assert counts.tolist() == [[1, 0], [0, 1]]
    # calibration restores the share of each label
    assert calibrated_joint(counts, labels).sum(1).tolist() == pytest.approx([2 / 3, 1 / 3])


def numpy_scores(
    probabilities: np.ndarray, labels: np.ndarray, votes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Derive the joint distribution and the scores again, example by example."""
    count, classes = probabilities.shape
    present = [label for label in range(classes) if (labels == label).any()]
    thresholds = {label: probabilities[labels == label, label].mean() for label in present}
    joint = np.zeros((classes, classes))
    for row, label in zip(probabilities, labels, strict=True):
        confident = [other for other in present if row[other] >= thresholds[other]]
        if confident:
            joint[label, max(confident, key=lambda other: row[other])] += 1
    for label in present:
        if not joint[label].any():
            joint[label, label] = 1
        joint[label] *= (labels == label).sum() / joint[label].sum()
    joint /= count
    noise = joint.T * count + PSEUDO_EXAMPLES / classes
    noise /= noise.sum(1, keepdims=True)
    known = [label for label in range(classes) if joint[:, label].any()]
    rate = np.mean([noise[true, given] for true in known for given in range(classes) if given != true])
    for true in set(range(classes)) - set(known):
        noise[true] = rate
        noise[true, true] = 1 - rate * (classes - 1)
    weights = probabilities * (1 if votes is None else votes + 0.5)
    odds = []
    for row, label in zip(weights, labels, strict=True):
        others = sum(noise[other, label] * row[other] for other in range(classes) if other != label)
        odds.append(np.log(others / (noise[label, label] * row[label])))
    return joint, np.array(odds)


@pytest.mark.parametrize("classes", [2, 4, 30])
@pytest.mark.parametrize("seed", range(3))
def test_joint_and_scores_agree_with_numpy(seed, classes):
    probabilities, labels = random_case(seed, classes=classes)
    errors = pellucid.label_errors(probabilities, labels)
    joint, scores = numpy_scores(probabilities.numpy(), labels.numpy())
    np.testing.assert_allclose(errors.joint.numpy(), joint, atol=1e-12)
    np.testing.assert_allclose(errors.score.numpy(), scores, rtol=1e-9, atol=1e-9)
    assert errors.suspects == round(60 * (1 - joint.trace()))
    assert errors.ranking.tolist() == np.argsort(-scores, kind="stable").tolist()


@pytest.mark.parametrize("seed", range(3))
def test_neighbors_agree_with_numpy(seed):
    probabilities, labels = random_case(seed)
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed))
    errors = pellucid.label_errors(probabilities, labels, embedding=points, neighbors=7)
    distances = np.linalg.norm(points.numpy()[:, None] - points.numpy()[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    near = labels.numpy()[distances.argsort(1)[:, :7]]
    votes = np.stack([(near == label).sum(1) for label in range(4)], 1)
    np.testing.assert_allclose(errors.evidence["neighbors"].numpy(), (near != labels.numpy()[:, None]).mean(1))
    _, scores = numpy_scores(probabilities.numpy(), labels.numpy(), votes)
    np.testing.assert_allclose(errors.score.numpy(), scores, rtol=1e-9, atol=1e-9)
    _, alone = numpy_scores(probabilities.numpy(), labels.numpy())
    np.testing.assert_allclose(errors.evidence["confident_learning"].numpy(), alone, rtol=1e-9, atol=1e-9)


def test_self_influence_is_the_squared_norm_of_the_gradient():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double()
    points, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    closed = last_layer_self_influence(layer(points).softmax(1).detach(), labels, points)
    for row in range(5):
        layer.zero_grad()
        nn.functional.cross_entropy(layer(points[row : row + 1]), labels[row : row + 1]).backward()
        norm = sum(float(parameter.grad.square().sum()) for parameter in layer.parameters())
        assert float(closed[row]) == pytest.approx(norm, rel=1e-12)


def test_self_influence_of_sure_predictions_does_not_cancel():
    probabilities = torch.tensor([[1 - 1e-9, 1e-9]], dtype=torch.float64)
    value = last_layer_self_influence(probabilities, torch.tensor([0]), torch.zeros(1, 3))
    assert float(value) == pytest.approx(2e-18, rel=1e-6)


@pytest.mark.parametrize("with_embedding", [False, True])
def test_flipped_labels_are_found(with_embedding):
    points, probabilities, labels, is_flipped = flipped_gaussians()
    errors = pellucid.label_errors(probabilities, labels, embedding=points if with_embedding else None)
    assert roc_auc_score(is_flipped, errors.score) > 0.995
    flipped = int(is_flipped.sum())
    assert is_flipped[errors.ranking[:flipped]].double().mean() > 0.9
    assert abs(errors.suspects - flipped) < 0.2 * flipped
    # the flips are from class j to j + 1
    assert {(pair.given, pair.true) for pair in errors.pairs[:3]} == {(1, 0), (2, 1), (0, 2)}
    assert (errors.suggested == (labels - 1) % 3)[is_flipped].double().mean() > 0.95


def test_neighbors_reveal_errors_that_the_network_has_memorized():
    points, _, labels, is_flipped = flipped_gaussians()
    draws = torch.Generator().manual_seed(1)
    logits = torch.randn(len(labels), 3, generator=draws, dtype=torch.float64)
    logits[torch.arange(len(labels)), labels] += 6.0
    alone = pellucid.label_errors(logits.softmax(1), labels)
    with_points = pellucid.label_errors(logits.softmax(1), labels, embedding=points)
    assert roc_auc_score(is_flipped, alone.score) < 0.7
    assert roc_auc_score(is_flipped, with_points.score) > 0.95


def test_large_embeddings_and_many_examples_are_sampled_by_seed(monkeypatch):
    monkeypatch.setattr("pellucid.diagnostics._nearest.REFERENCES", 300)
    points, probabilities, labels, is_flipped = flipped_gaussians()
    rotation = torch.linalg.qr(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)))[0]
    wide = torch.cat([points.float(), torch.zeros(len(points), 97)], 1) @ rotation
    first, same, other = (pellucid.label_errors(probabilities, labels, embedding=wide, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.score, same.score)
    assert not torch.equal(first.score, other.score)
    for errors in (first, other):
        disagreement = errors.evidence["neighbors"]
        assert disagreement[is_flipped].mean() > 0.9
        assert disagreement[~is_flipped].mean() < 0.15


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_order_of_examples_and_of_classes_does_not_matter(seed, classes):
    probabilities, labels = random_case(seed, 40, classes)
    draws = torch.Generator().manual_seed(seed + 1)
    points = torch.randn(40, 3, generator=draws)
    errors = pellucid.label_errors(probabilities, labels, embedding=points)
    order = torch.randperm(40, generator=draws)
    shuffled = pellucid.label_errors(probabilities[order], labels[order], embedding=points[order])
    torch.testing.assert_close(shuffled.score, errors.score[order])
    torch.testing.assert_close(shuffled.joint, errors.joint)
    renamed = torch.randperm(classes, generator=draws)
    again = pellucid.label_errors(probabilities[:, renamed.argsort()], renamed[labels], embedding=points)
    torch.testing.assert_close(again.score, errors.score)
    assert torch.equal(again.suggested, renamed[errors.suggested])
    torch.testing.assert_close(again.joint, errors.joint[renamed.argsort()][:, renamed.argsort()])


def test_class_without_examples():
    probabilities, labels = random_case(0, classes=3)
    wide = torch.cat([probabilities * 0.999, torch.full((60, 1), 0.001, dtype=torch.float64)], 1)
    errors = pellucid.label_errors(wide, labels)
    assert errors.score.isfinite().all()
    assert (errors.joint[3].sum(), errors.joint[:, 3].sum()) == (0, 0)
    _, scores = numpy_scores(wide.numpy(), labels.numpy())
    np.testing.assert_allclose(errors.score.numpy(), scores, rtol=1e-9, atol=1e-9)
    # an image that is certainly of that class is suspicious
    wide[7] = torch.tensor([1e-9, 1e-9, 1e-9, 1 - 3e-9], dtype=torch.float64)
    errors = pellucid.label_errors(wide, labels)
    assert (errors.ranking[0].item(), errors.suggested[7].item()) == (7, 3)


@pytest.mark.parametrize("is_right", [True, False])
def test_all_right_and_all_wrong_one_hot_predictions(is_right):
    labels = torch.arange(20) % 4
    probabilities = nn.functional.one_hot(labels if is_right else (labels + 1) % 4, 4).float()
    errors = pellucid.label_errors(probabilities, labels, embedding=torch.zeros(20, 3))
    assert errors.score.isfinite().all()
    assert bool((errors.score < 0).all()) is is_right
    assert errors.suspects == (0 if is_right else 20)


def test_single_example_and_identical_ones():
    errors = pellucid.label_errors(torch.tensor([[0.3, 0.7]]), torch.tensor([0]), embedding=torch.ones(1, 2))
    assert list(errors.evidence) == ["confident_learning", "self_influence"]  # no neighbors
    assert repr(errors) == "LabelErrors(1 examples, about 0 label errors)"
    same = pellucid.label_errors(torch.full((5, 2), 0.5), torch.tensor([0, 0, 0, 0, 0]), embedding=torch.ones(5, 2))
    assert same.ranking.tolist() == [0, 1, 2, 3, 4]


def test_half_precision_and_other_integers():
    probabilities, labels = random_case(0)
    points = 100 * torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    expected = pellucid.label_errors(probabilities, labels, embedding=points)
    half = pellucid.label_errors(probabilities.half(), labels.to(torch.uint8), embedding=points.half())
    torch.testing.assert_close(half.score, expected.score, atol=0.6, rtol=0.05)
    assert half.evidence["self_influence"].isfinite().all()


def test_missing_predictions_are_ignored_only_on_request():
    probabilities, labels = random_case(0)
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    kept = torch.ones(60, dtype=torch.bool)
    kept[[3, 40]] = False
    with_missing = probabilities.clone()
    with_missing[~kept] = torch.nan
    points[~kept] = torch.nan
    with pytest.raises(DataError, match=r"NaN at index \(3, 0\).*allow_missing=True"):
        pellucid.label_errors(with_missing, labels)
    errors = pellucid.label_errors(with_missing, labels, embedding=points, allow_missing=True)
    expected = pellucid.label_errors(probabilities[kept], labels[kept], embedding=points[kept])
    assert torch.equal(errors.score[kept], expected.score)
    assert torch.equal(errors.ranking, kept.nonzero()[:, 0][expected.ranking])
    assert errors.score[~kept].isnan().all()
    assert errors.suggested[~kept].tolist() == [-1, -1]
    assert all(values[~kept].isnan().all() for values in errors.evidence.values())
    assert (errors.suspects, errors.pairs) == (expected.suspects, expected.pairs)
    assert torch.equal(errors.labels, labels)


GOOD = torch.full((4, 2), 0.5)
ZEROS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probabilities": torch.ones(4)}, ShapeError, r"got \(4,\)"),
        ({"probabilities": torch.ones(4, 1)}, ShapeError, "at least two classes"),
        ({"probabilities": torch.ones(4, 2).long()}, ShapeError, "int64"),
        ({"probabilities": GOOD * 3}, DataError, r"row 0 of probabilities sums to 3.*softmax"),
        ({"probabilities": torch.tensor([[0.5, 0.5]] * 3 + [[1.5, -0.5]])}, DataError, "row 3 .* minimum of -0.5"),
        ({"probabilities": GOOD.clone().fill_(torch.inf)}, DataError, "inf at index"),
        ({"probabilities": GOOD * torch.nan, "allow_missing": True}, DataError, "no example has a prediction"),
        ({"labels": ZEROS[:3]}, ShapeError, r"each of 4 rows .* \(3,\)"),
        ({"labels": ZEROS.float()}, ShapeError, "float32"),
        ({"labels": ZEROS + 2}, DataError, "range from 2 to 2; expected class indices from 0 to 1"),
        ({"labels": ZEROS - 1}, DataError, "range from -1 to -1"),
        ({"embedding": torch.ones(3, 2)}, ShapeError, r"each of 4 examples, got shape \(3, 2\)"),
        ({"embedding": torch.ones(4, 2, 2)}, ShapeError, "flatten"),
        ({"embedding": torch.ones(4, 2) * torch.nan}, DataError, "the embedding holds NaN"),
        ({"neighbors": 0}, ConfigError, r"neighbors.* is 0"),
    ],
)  # fmt: skip
def test_invalid_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        pellucid.label_errors(**{"probabilities": GOOD, "labels": ZEROS, **arguments})


def test_many_classes_are_computed_in_parts(monkeypatch):
    probabilities, labels = random_case(0, 90, 30)
    expected = pellucid.label_errors(probabilities, labels)
    monkeypatch.setattr("pellucid.diagnostics._confident_learning.VALUES_AT_ONCE", 200)
    monkeypatch.setattr("pellucid.diagnostics._nearest.DISTANCES_AT_ONCE", 200)
    errors = pellucid.label_errors(probabilities, labels)
    assert torch.equal(errors.score, expected.score)
    assert torch.equal(errors.joint, expected.joint)


def test_noise_of_an_unknown_class_is_the_mean_of_the_others():
    joint = torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    noise = label_noise(joint, 1000)
    known = noise[:2]
    rate = (known.sum() - known[0, 0] - known[1, 1]) / 4
    torch.testing.assert_close(noise[2], torch.stack([rate, rate, 1 - 2 * rate]))
    torch.testing.assert_close(noise.sum(1), torch.ones(3, dtype=torch.float64))
