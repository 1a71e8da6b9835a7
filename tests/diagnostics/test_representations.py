"""Linear CKA, against the definitions written out."""

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.diagnostics import _representations
from pellucid.diagnostics._representations import centered_gram, images_for, linear_cka, read_layers


def features(seed: int, count: int = 40, size: int = 6) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Return the unbiased estimate by Song et al. (2012), equation 5, as sums over indices."""
    n = len(first)
    one, two = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    trace = sum(one[i, j] * two[j, i] for i in range(n) for j in range(n))
    sums = one.sum() * two.sum() / ((n - 1) * (n - 2))
    mixed = sum((one[:, k].sum()) * (two[k].sum()) for k in range(n))
    return float(trace + sums - 2 / (n - 2) * mixed) / (n * (n - 3))


def test_cka_is_that_of_the_unbiased_estimator() -> None:
    one, two = features(0), features(0) @ features(1, 6, 3) + 0.5 * features(2, 40, 3)
    grams = [(x.double() @ x.double().T).numpy() for x in (one, two)]
    expected = hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    got = linear_cka([centered_gram(one)], [centered_gram(two)])
    assert got[0, 0] == pytest.approx(expected, abs=1e-5)
    assert 0.3 < expected < 0.99


def test_many_images_give_the_original_definition() -> None:
    one = features(3, 3000, 5)
    two = torch.tanh(one @ features(4, 5, 4))
    x, y = (value - value.mean(0) for value in (one, two))
    original = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka([centered_gram(one)], [centered_gram(two)])[0, 0] == pytest.approx(float(original), abs=0.01)


def test_rotation_scale_and_shift_change_nothing() -> None:
    one = features(5)
    rotation = torch.linalg.qr(features(6, 6, 6))[0]
    assert linear_cka([centered_gram(one)], [centered_gram(7 * one @ rotation + 3)])[0, 0] == pytest.approx(1, abs=1e-5)


def test_unrelated_features_give_about_zero_even_if_there_are_many_of_them() -> None:
    values = [
        linear_cka([centered_gram(features(seed, 30, 500))], [centered_gram(features(seed + 100, 30, 500))])[0, 0]
        for seed in range(10)
    ]
    assert abs(np.mean(values)) < 0.05  # the biased estimator gives about 0.95 here


def test_a_constant_layer_has_no_similarity() -> None:
    rounded = torch.full((10, 4), 0.1) + 1e-8 * features(9, 10)[:, :4]  # as batches of different images round
    for constant in (torch.ones(10, 4), torch.full((10, 4), 0.1), rounded):
        own = centered_gram(constant)
        got = linear_cka([own, centered_gram(features(7, 10))], [centered_gram(features(8, 10)), own])
        assert np.isnan(got[0]).all()
        assert np.isfinite(got[1, 0])


def test_layers_are_read_in_groups_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5), nn.ReLU(), nn.Linear(5, 2))
    images = torch.rand(20, 1, 8, 8)
    whole = read_layers(model, images)
    monkeypatch.setattr(_representations, "MOST_VALUES", 108 * 10)
    monkeypatch.setattr(_representations, "IMAGES_AT_ONCE", 7)
    assert images_for(model, images) == 10
    parts = read_layers(model, images)
    assert list(parts.kernels) == list(whole.kernels) == ["0", "3", "5"]
    for name, kernel in whole.kernels.items():
        np.testing.assert_allclose(parts.kernels[name], kernel, atol=1e-5 * np.abs(kernel).max())


def test_deep_networks_keep_their_first_and_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_representations, "MOST_LAYERS", 3)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
    layers = read_layers(model, torch.rand(5, 4))
    assert list(layers.kernels) == ["0", "4", "8"]
    assert layers.of == 9


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        centered_gram(features(0, 3))
