import torch
from captum.metrics import sensitivity_max

from pellucid.evaluation.max_sensitivity import MaxSensitivity


def test_max_sensitivity_agrees_with_captum_for_the_same_draws(network, by_name):
    method = by_name(network, "gradient")
    result = MaxSensitivity(draws=5, radius=0.03).measure(network, method).values
    noises = iter(network.draw("max_sensitivity", count=5, is_uniform=True))

    def explain(images):
        """Return a tuple for a tuple, like captum's own methods."""
        if isinstance(images, tuple):
            return (method(images[0], network.targets),)
        return method(images, network.targets)

    expected = sensitivity_max(
        explain,
        network.images,
        perturb_func=lambda images: images + 0.03 * next(noises),
        n_perturb_samples=5,
        max_examples_per_batch=3,
    )
    assert float(expected.max()) > 0.1
    torch.testing.assert_close(result, expected, atol=1e-10, rtol=1e-10)


def test_a_constant_map_is_not_sensitive(network, given):
    result = MaxSensitivity().measure(network, given(network, lambda images, _: torch.ones_like(images)))
    assert result.values.tolist() == [0.0, 0.0, 0.0]
