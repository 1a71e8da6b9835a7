import pytest
import torch
from torch import nn

from pellucid.core.errors import ModelError
from pellucid.evaluation._rewritten import rewritings
from pellucid.evaluation.implementation_invariance import ImplementationInvariance


def test_the_gradient_sees_the_function_alone(network, by_name):
    found = ImplementationInvariance().measure(network, by_name(network, "gradient"))
    assert set(found.beside) == {"folded", "split"}
    assert float(found.values.max()) < 1e-12


def test_a_rule_that_looks_at_layers_sees_how_the_function_is_written(network, by_name):
    found = ImplementationInvariance().measure(network, by_name(network, "lrp.alpha_1_beta_0"))
    assert float(found.beside["split"].min()) > 0.01


def test_the_other_ways_compute_the_same_with_other_modules(network):
    made = rewritings(network.model, network.images, 0)
    for copied in made.values():
        torch.testing.assert_close(copied(network.images), network.logits, rtol=1e-9, atol=1e-9)
    assert isinstance(made["folded"][1], nn.Identity)
    assert isinstance(made["split"][6], nn.Sequential)
    assert isinstance(network.model[1], nn.BatchNorm2d)
    assert isinstance(network.model[6], nn.Linear)


class Elsewhere(nn.Module):
    """The batch-norm is listed after a convolution that it does not follow."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(0.3)

    def forward(self, x):
        return self.convolution(self.norm(x)).flatten(1)[:, :3]


def test_a_way_that_changes_the_function_is_not_taken(network):
    with pytest.raises(ModelError, match="written in no other way"):
        rewritings(Elsewhere().double().eval(), network.images, 0)
