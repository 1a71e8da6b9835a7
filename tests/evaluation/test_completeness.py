import pytest
import torch

from pellucid.evaluation.completeness import Completeness


def test_input_x_gradient_is_complete_on_a_linear_model(linear, by_name, given):
    maps = by_name(linear, "input_x_gradient")
    assert float(Completeness().measure(linear, maps).values.max()) < 1e-13
    doubled = Completeness().measure(linear, given(linear, lambda images, targets: 2 * maps(images, targets)))
    torch.testing.assert_close(doubled.values, torch.full((3,), 1 / 3, dtype=torch.float64))
    opposite = Completeness().measure(linear, given(linear, lambda images, targets: -maps(images, targets)))
    torch.testing.assert_close(opposite.values, torch.ones(3, dtype=torch.float64))


def test_without_a_baseline_the_sum_should_equal_the_logit(linear, given):
    own = linear.read(linear.logits)
    shared = given(linear, lambda images, _: (own / 36)[:, None, None, None].expand_as(images))
    assert float(Completeness(baseline=None).measure(linear, shared).values.max()) < 1e-13
    assert float(Completeness().measure(linear, shared).values.max()) > 1e-3


def test_integrated_gradients_are_complete(network, by_name):
    result = Completeness().measure(network, by_name(network, "integrated_gradients", steps=512))
    assert float(result.values.max()) == pytest.approx(0, abs=1e-2)
