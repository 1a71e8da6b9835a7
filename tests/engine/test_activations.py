"""Outputs of layers in one forward pass."""

import torch
from torch import nn

from pellucid.engine.activations import layer_outputs


class Twice(nn.Module):
    """Uses a layer twice, works in place and registers its layers in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.shared = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.shared(x)).relu_()
        return self.last(self.shared(x).relu_())


def test_outputs_are_those_of_the_last_use_before_the_activation() -> None:
    torch.manual_seed(0)
    model = Twice().train()
    images = torch.randn(5, 3)
    outputs = layer_outputs(model, images)
    assert list(outputs) == ["shared", "last"]
    model.eval()
    hidden = model.shared(model.norm(model.shared(images)).relu())
    torch.testing.assert_close(outputs["shared"], hidden)
    torch.testing.assert_close(outputs["last"], model.last(hidden.relu()))


def test_the_model_is_left_as_it_was() -> None:
    model = Twice().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_outputs(model, torch.randn(5, 3), ["last"])
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_only_named_layers_are_returned() -> None:
    assert list(layer_outputs(Twice(), torch.randn(2, 3), ["last"])) == ["last"]
