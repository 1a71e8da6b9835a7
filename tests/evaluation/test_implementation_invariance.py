import pytest
import torch
from torch import nn

from pellucid.core.errors import ModelError
from pellucid.evaluation._rewritten import rewritings
from pellucid.evaluation.implementation_invariance import ImplementationInvariance


def test_the_gradient_depends_only_on_the_function(network, by_name):
    result = ImplementationInvariance().measure(network, by_name(network, "gradient"))
    assert set(result.beside) == {"folded", "split"}
    assert float(result.values.max()) < 1e-12


def test_a_layerwise_rule_depends_on_the_implementation(network, by_name):
    result = ImplementationInvariance().measure(network, by_name(network, "lrp.alpha_1_beta_0"))
    assert float(result.beside["split"].min()) > 0.01


def test_rewritten_models_are_equivalent(network):
    copies = rewritings(network.model, network.images, 0)
    for copied in copies.values():
        torch.testing.assert_close(copied(network.images), network.logits, rtol=1e-9, atol=1e-9)
    assert isinstance(copies["folded"][1], nn.Identity)
    assert isinstance(copies["split"][6], nn.Sequential)
    assert isinstance(network.model[1], nn.BatchNorm2d)
    assert isinstance(network.model[6], nn.Linear)


class NormBeforeConvolution(nn.Module):
    """A batch norm that is listed after a convolution but applied before it."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(0.3)

    def forward(self, x):
        return self.convolution(self.norm(x)).flatten(1)[:, :3]


def test_rewritings_that_change_the_function_are_refused(network):
    with pytest.raises(ModelError, match="cannot be rewritten"):
        rewritings(NormBeforeConvolution().double().eval(), network.images, 0)
