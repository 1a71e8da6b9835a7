import numpy as np
import pytest
import torch
from torch import nn

from pellucid.core.errors import ModelError
from pellucid.evaluation._randomised import cascade, layers_of
from pellucid.evaluation.parameter_randomisation import ParameterRandomisation


def test_similarities_agree_with_quantus(quantus, by_name):
    case, kept = quantus
    metric = ParameterRandomisation()
    case.shared(metric, lambda: cascade(case.model, lambda _: int(kept["seed"]), 8))
    result = metric.measure(case, by_name(case, "gradient"))
    expected = kept["parameter_randomisation"]
    np.testing.assert_allclose(result.values.numpy(), expected.mean(1), atol=1e-5)
    np.testing.assert_allclose(result.curves["similarity"].numpy(), [1, *expected.mean(0)], atol=1e-5)


@pytest.mark.parametrize("control", ["random", "constant", "sobel", "input"])
def test_controls_do_not_depend_on_the_weights(network, by_name, control):
    values = ParameterRandomisation().measure(network, by_name(network, control)).values
    torch.testing.assert_close(values, torch.ones(3).double())


def test_layers_are_randomized_from_the_last_to_the_first(network):
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    copies = cascade(network.model, lambda stage: stage, 8)
    changed = [
        {name.split(".")[0] for name, value in copied.state_dict().items() if not torch.equal(value, before[name])}
        for copied in copies
    ]
    assert changed == [{"6"}, {"3", "6"}, {"0", "1", "3", "6"}]
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert len(layers_of(network.model)) == 3
    few = cascade(network.model, lambda stage: stage, 2)
    torch.testing.assert_close(few[-1].state_dict(), copies[-1].state_dict())
    assert len(few) == 2


def test_custom_parameters_are_randomized_and_the_random_state_is_restored():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(50, 40) * 3 + 1)

    torch.manual_seed(5)
    state, own = torch.get_rng_state(), Own()
    state = torch.get_rng_state()
    (copied,) = cascade(own, lambda _: 0, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(copied.weight, own.weight)
    assert float(copied.weight.std()) == pytest.approx(float(own.weight.detach().std()), rel=0.1)
    with pytest.raises(ModelError, match="no layer with weights"):
        cascade(nn.Flatten(), lambda _: 0, 8)
