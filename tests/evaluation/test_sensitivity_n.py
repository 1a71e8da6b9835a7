import numpy as np
import pytest
import torch

from pellucid.core.errors import ConfigError
from pellucid.evaluation.sensitivity_n import SensitivityN


def test_input_x_gradient_predicts_a_linear_model(linear, by_name, given):
    maps = by_name(linear, "input_x_gradient")
    assert float(SensitivityN().measure(linear, maps).values.min()) == pytest.approx(1.0, abs=1e-9)
    opposite = given(linear, lambda images, targets: -maps(images, targets))
    assert float(SensitivityN().measure(linear, opposite).values.max()) == pytest.approx(-1.0, abs=1e-9)


def test_the_correlation_agrees_with_a_slow_loop(network, by_name):
    method = by_name(network, "gradient")
    metric = SensitivityN(shares=(0.1, 0.5), sets=12)
    result = metric.measure(network, method)
    for image in range(3):
        correlations = []
        for number in range(2):
            sums, effects = [], []
            for chosen in metric._sets(network, number):
                assert int(chosen.sum()) == (6, 32)[number]
                remaining = network.images[image : image + 1].clone()
                remaining.view(-1)[chosen] = 0
                sums.append(float(method.relevance[image].flatten()[chosen].sum()))
                both = network.model(torch.cat([network.images[image : image + 1], remaining]))
                effects.append(float(both[0, network.targets[image]] - both[1, network.targets[image]]))
            correlations.append(np.corrcoef(sums, effects)[0, 1])
        assert float(result.values[image]) == pytest.approx(np.mean(correlations), abs=1e-9)


def test_sets_are_never_empty_or_full(make_case):
    """Their effects would be equal, and have no correlation."""
    few = make_case(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), size=(2, 2))
    for share, size in ((0.01, 1), (0.9, 3)):
        sets = SensitivityN(shares=(share,), sets=6)._sets(few, 0)
        assert sets.sum(1).tolist() == [size] * 6


def test_a_zero_map_has_no_correlation(network, given):
    result = SensitivityN().measure(network, given(network, lambda images, _: torch.zeros_like(images)))
    assert result.values.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SensitivityN(shares=(1.0,))
