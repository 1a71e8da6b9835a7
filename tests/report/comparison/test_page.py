"""The page of a comparison: its numbers, its size, and content that is hard to show."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.hooks._thumbnails import thumbnails
from pellucid.report.comparison import comparison_page
from pellucid.report.comparison.embedding import aligned
from pretended_comparison import comparison_of, pretended

LABELS = np.arange(60) % 3


def sections_of(page: bytes) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" id="data-(\w+)">(.*?)</script>', page.decode(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def small(seed: int, channels: int = 1, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes)
    ).eval()


def explained(name: str, pixels: torch.Tensor, labels: np.ndarray, seed: int, **changes: object):
    model = small(seed, pixels.shape[1])
    predictions = model(pixels.float() / 255).argmax(1).numpy()
    return pretended(name, labels, predictions, network=model, pixels=pixels, seed=seed, **changes)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randint(0, 256, (60, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_confusion_matrices_are_subtracted() -> None:
    draws = np.random.default_rng(0)
    one, two = draws.integers(0, 3, 60), draws.integers(0, 3, 60)
    comparison = comparison_of(pretended("a", LABELS, one), pretended("b", LABELS, two, model="mlp"))
    (pair,) = sections_of(comparison_page(comparison))["confusion"]["pairs"]
    for key, predictions in (("first", one), ("other", two)):
        expected = [
            [int(((label == LABELS) & (predictions == other)).sum()) for other in range(3)] for label in range(3)
        ]
        assert pair[key] == expected


def test_differing_settings_are_listed_and_equal_ones_folded() -> None:
    models = pretended("a", LABELS, LABELS), pretended("b", LABELS, LABELS, learning_rate=0.1, model="mlp")
    runs = sections_of(comparison_page(comparison_of(*models)))["runs"]
    assert dict(runs["differing"]) == {"model": ["cnn", "mlp"], "learning rate": ["–", "0.1"]}
    assert dict(runs["same"])["version of torch"] == "2.9"


def test_disagreements_show_both_directions_and_the_most_confident_mistakes(noise: torch.Tensor) -> None:
    # a label is the prediction of one model or of the other, so that each is right where the other is wrong
    guesses = [small(seed)(noise.float() / 255).argmax(1).numpy() for seed in (3, 4)]
    labels = np.where(np.arange(60) % 3, *guesses)
    models = [explained(name, noise, labels, seed) for seed, name in zip((3, 4), "ab", strict=True)]
    comparison = comparison_of(*models)
    right = [model.outcome.predictions == labels for model in models]
    chosen = comparison.pairs[0].disagreements
    counts = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert min(counts) > 0
    assert len(chosen.rows) == min(40, sum(counts))
    for row, (label, wrong) in zip(chosen.rows, chosen.classes, strict=True):
        assert right[0][row] != right[1][row]
        mistaken = models[0 if right[1][row] else 1]
        assert (label, wrong) == (labels[row], mistaken.outcome.predictions[row])
    # maps are those of the models, for the true class and the mistake
    row, (label, wrong) = int(chosen.rows[0]), chosen.classes[0]
    for side, model in enumerate(models):
        image = (noise[row : row + 1].float() / 255).requires_grad_()
        assert model.model is not None
        for kind, target in enumerate((label, wrong)):
            (gradient,) = torch.autograd.grad(model.model(image)[0, target], image)
            shown = chosen.maps[side][0, kind] / 127 * chosen.scales[side][0, kind]
            np.testing.assert_allclose(shown, gradient[0].sum(0), atol=chosen.scales[side][0, kind] / 250)


def test_agreement_is_the_mean_rank_correlation(noise: torch.Tensor) -> None:
    from scipy.stats import spearmanr

    models = [explained(name, noise, LABELS, seed) for seed, name in enumerate("ab")]
    (agreement,) = comparison_of(*models, images=10).pairs[0].agreement
    maps = []
    for model in models:
        rows = np.arange(10) * 60 // 10
        images = (noise[torch.from_numpy(rows)].float() / 255).requires_grad_()
        logits = model.model(images)
        (gradient,) = torch.autograd.grad(logits[torch.arange(10), torch.from_numpy(LABELS[rows])].sum(), images)
        maps.append(gradient.sum(1).flatten(1).numpy())
    expected = np.mean([spearmanr(one, two).statistic for one, two in zip(*maps, strict=True)])
    assert agreement.mean == pytest.approx(expected, abs=1e-4)
    assert agreement.low < agreement.mean < agreement.high
    assert agreement.images == 10


def test_a_model_agrees_with_itself(noise: torch.Tensor) -> None:
    models = [explained(name, noise, LABELS, 0, model=name) for name in "ab"]
    comparison = comparison_of(*models)
    (agreement,) = comparison.pairs[0].agreement
    assert (agreement.mean, agreement.low, agreement.high) == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(comparison.pairs[0].layers[2].diagonal(), 1, atol=1e-9)
    sections = sections_of(comparison_page(comparison))
    assert "disagreements" not in sections
    assert np.array_equal(*(sections["confusion"]["pairs"][0][key] for key in ("first", "other")))


def test_hostile_names_and_missing_values_are_shown() -> None:
    classes = ("</script><b>", '"' * 40, "é" * 40)
    one, two = LABELS.copy(), LABELS.copy()
    one[:6], two[6:20] = (LABELS[:6] + 1) % 3, (LABELS[6:20] + 1) % 3
    models = [pretended(name, LABELS, own, classes=classes, model=name) for name, own in (("<a>", one), ("b&", two))]
    models[0].outcome.confidences[:] = np.nan
    models[0].outcome.losses[:] = np.nan
    page = comparison_page(comparison_of(*models))
    assert b"</script><b>" not in page
    assert "&lt;a&gt;" in page.decode()
    shown = sections_of(page)["disagreements"]["pairs"][0]
    assert set(shown["confidences"][0]) == {None}
    assert sections_of(page)["disagreements"]["images"] is None
    assert dict(sections_of(page)["runs"]["results"])["mean loss"][0] == "–"


def test_a_thousand_classes_show_the_largest_changes() -> None:
    labels = np.arange(2000) % 1000
    one, two = labels.copy(), labels.copy()
    one[labels == 7], two[labels == 900] = 8, 901
    names = tuple(f"class {number}" for number in range(1000))
    models = [pretended(name, labels, own, classes=names, model=name) for name, own in (("a", one), ("b", two))]
    page = comparison_page(comparison_of(*models))
    (pair,) = sections_of(page)["confusion"]["pairs"]
    assert {7, 8, 900, 901} <= set(pair["chosen"])
    assert len(pair["chosen"]) == 30
    assert len(page) < 500_000


def test_binary_classifiers_and_one_epoch_are_shown() -> None:
    labels = np.array([0, 1, 1, 0])
    models = [pretended(name, labels, labels, classes=("no", "yes"), model=name) for name in "ab"]
    for model in models:
        del model.metrics[1:]
    assert "curves" not in sections_of(comparison_page(comparison_of(*models)))


def test_embeddings_are_rotated_onto_the_first() -> None:
    draws = np.random.default_rng(0)
    points, rows = draws.normal(size=(20, 2)), np.arange(20)
    turn = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]]) @ np.diag([1, -1])
    turned = (rows[5:], 3 * points[5:] @ turn + 4)
    back = aligned(turned, (rows, points))
    expected = points[5:] - points[5:].mean(0)
    np.testing.assert_allclose(back, 3 * expected, atol=1e-9)
    few = (rows[:2], points[:2])
    assert np.array_equal(aligned(few, (rows, points)), points[:2])


def test_too_many_points_are_limited_to_those_of_the_first_model() -> None:
    labels = np.arange(5000) % 3
    models = [pretended(name, labels, labels, model=name) for name in "ab"]
    comparison = comparison_of(*models)
    points = np.random.default_rng(0).normal(size=(1500, 2))
    placed = [(np.arange(1500), points), (np.arange(1000, 2500), points)]
    known = tuple(replace(model, points=own) for model, own in zip(comparison.models, placed, strict=True))
    section = sections_of(comparison_page(replace(comparison, models=known)))["embedding"]
    assert section["indices"] == list(range(1500))
    assert [len(plane["x"]) for plane in section["planes"].values()] == [1500, 500]
    assert section["planes"]["1"]["points"] == list(range(1000, 1500))


def test_other_image_sizes_have_maps_but_no_agreement(noise: torch.Tensor) -> None:
    models = [explained("a", noise, LABELS, 3), explained("b", noise[..., :8, :8], LABELS, 4)]
    comparison = comparison_of(*models)
    assert "matched by their position" in comparison.notes[0]
    assert comparison.notes[-1] == ("The maps of a (12×12) and b (8×8) differ in size, so their agreement is left out.")
    sections = sections_of(comparison_page(comparison))
    assert "agreement" not in sections
    assert sections["disagreements"]["pairs"][0]["maps"]["size"] == [[12, 12], [8, 8]]
    assert np.isfinite(comparison.pairs[0].layers[2]).all()


def test_methods_that_apply_to_no_model_are_named(noise: torch.Tensor) -> None:
    models = [explained("a", noise, LABELS, 3), explained("b", noise, LABELS, 4)]
    comparison = comparison_of(*models, methods=("pattern.net",))
    assert comparison.method is None
    page = comparison_page(comparison).decode()
    reason = r"The maps are left out, because no method applies to all models\. pattern\.net: b: ([^<]+)"
    assert "fit" in re.findall(reason, page)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "channels"), [(28, 1), (96, 3)])
def test_ten_runs_stay_under_15_megabytes(side: int, channels: int, tmp_path: Path) -> None:
    """The worst case: incompressible pixels, models that disagree about most images, and t-SNE points."""
    draws = torch.Generator().manual_seed(0)
    count = 1000
    pixels = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=draws)
    labels = np.random.default_rng(0).integers(0, 3, count)
    models = []
    for seed in range(10):
        model = small(seed, channels)
        predictions = np.random.default_rng(seed).integers(0, 3, count)
        models.append(pretended(f"run{seed}", labels, predictions, network=model, pixels=pixels, model=f"net{seed}"))
    comparison = comparison_of(*models, images=20)
    points = np.random.default_rng(1).normal(size=(count, 2))
    rows = np.arange(count)
    pictures = {**comparison.pictures, "point_rows": rows, "thumbnails": thumbnails(models[0].images, 28)}
    withpoints = tuple(replace(model, points=(rows, points)) for model in comparison.models)
    page = replace(comparison, models=withpoints, pictures=pictures).save(tmp_path / "page.html")
    assert len(comparison.pairs) == 9
    assert min(len(pair.disagreements.rows) for pair in comparison.pairs) >= 8
    assert page.stat().st_size < 15_000_000
