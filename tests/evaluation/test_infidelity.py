import pytest
import torch
from captum.metrics import infidelity

from pellucid.evaluation.infidelity import Infidelity


@pytest.mark.parametrize("perturbation", ["gaussian", "square"])
@pytest.mark.parametrize("is_scaled", [True, False])
def test_the_gradient_of_a_linear_model_is_faithful(linear, by_name, perturbation, is_scaled):
    metric = Infidelity(perturbation=perturbation, is_scaled=is_scaled, draws=20)
    assert float(metric.measure(linear, by_name(linear, "gradient")).values.max()) < 1e-20
    assert float(metric.measure(linear, by_name(linear, "random")).values.min()) > 1e-4


@pytest.mark.parametrize("perturbation", ["gaussian", "square"])
@pytest.mark.parametrize("is_scaled", [True, False])
def test_infidelity_agrees_with_captum_for_the_same_draws(network, by_name, perturbation, is_scaled):
    method = by_name(network, "gradient")
    metric = Infidelity(perturbation=perturbation, is_scaled=is_scaled, draws=7)
    draws = iter(metric._draws(network))

    def perturb(images):
        change = metric._perturbation(network, next(draws))
        return change, images - change

    expected = infidelity(
        network.model,
        perturb,
        network.images,
        method.relevance,
        target=network.targets,
        n_perturb_samples=7,
        max_examples_per_batch=3,
        normalize=is_scaled,
    )
    torch.testing.assert_close(metric.measure(network, method).values, expected, atol=1e-10, rtol=1e-8)
