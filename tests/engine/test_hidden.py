"""Outputs of named layers: read, replaced, and told apart by call."""

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError, UnknownName
from pellucid.engine.hidden import check_names, observed


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2)).eval()


def read(model: nn.Module, names: list[str], x: Tensor, batch: int | None = None) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def see(name: str, output: Tensor, is_input: bool) -> None:
        seen[name] = output.clone()

    with torch.no_grad(), observed(model, names, see, len(x) if batch is None else batch):
        model(x)
    return seen


def test_outputs_are_those_of_each_call(model) -> None:
    x = torch.rand(3, 4)
    seen = read(model, ["0", "1@1", "1@0"], x)
    with torch.no_grad():
        first = model[0](x)
        second = model[2](first.relu())
    assert torch.equal(seen["0"], first)
    assert torch.equal(seen["1@0"], first.relu())
    assert torch.equal(seen["1@1"], second.relu())
    assert not any(module._forward_hooks for module in model.modules())


def test_outputs_can_be_replaced(model) -> None:
    x, own = torch.rand(3, 4), torch.rand(3, 4)
    with torch.no_grad(), observed(model, ["2"], lambda *_: own.clone(), 3):
        output = model(x)
    assert torch.equal(output, model[4](own.relu()))


def test_in_place_modules_are_marked(model) -> None:
    marks: dict[str, bool] = {}
    with torch.no_grad(), observed(model, ["0", "1@0"], lambda name, _, own: marks.update({name: own}), 3):
        model(torch.rand(3, 4))
    assert marks == {"0": False, "1@0": True}


def test_names_without_one_output_are_refused(model) -> None:
    x = torch.rand(3, 4)
    for names, error, message in (
        (["1"], ModelError, "called 2 times"),
        (["1@2"], ModelError, "no '1@2'"),
    ):
        with pytest.raises(error, match=message):
            read(model, names, x)
    with pytest.raises(ShapeError, match="first axis must hold the images"):
        read(model, ["0"], x, batch=5)
    with pytest.raises(UnknownName):
        check_names(model, ["9"])
    with pytest.raises(ConfigError, match="named twice"):
        check_names(model, ["0", "0"])
    with pytest.raises(ConfigError, match="'0' and '0@0' are the same output"):
        check_names(model, ["0", "2", "0@0"])
    with pytest.raises(UnknownName):  # an index has one spelling
        check_names(model, ["1@0", "1@00"])
    with pytest.raises(ModelError, match="called once in a forward pass; name '0@0'"):
        read(model, ["0@1"], x)


def test_containers_that_are_not_called_are_explained() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(4, 2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts[0](x)

    with pytest.raises(ModelError, match="Containers such as nn.ModuleList"):
        read(Listed(), ["parts"], torch.rand(3, 4))


def test_hooks_are_removed_after_an_error(model) -> None:
    with pytest.raises(RuntimeError):
        read(model, ["0"], torch.rand(3, 5))
    assert not any(module._forward_hooks for module in model.modules())
