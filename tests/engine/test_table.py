"""The table of operations: what is said of a function where its handler is registered holds under all of its names."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.engine import Call, operation
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.table import NO_TRAITS
from unsupported import UNSUPPORTED, unsupported_function


def test_all_names_of_a_function_share_its_traits() -> None:
    spellings = (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid)
    assert {OPERATIONS.traits(function) for function in spellings} == {OPERATIONS.traits(torch.sigmoid)}
    assert OPERATIONS.traits(Tensor.__iadd__) == OPERATIONS.traits(Tensor.__add__) != NO_TRAITS


def test_an_unknown_function_has_no_traits() -> None:
    function = UNSUPPORTED["unsupported_function"]
    assert OPERATIONS.find(function) is None
    assert OPERATIONS.traits(function) == OPERATIONS.named("unsupported_function") == NO_TRAITS


@pytest.mark.parametrize("name", ["LeakyReLU", "leaky_relu", "leaky_relu_"])
def test_layers_and_operators_are_found_by_name(name) -> None:
    assert OPERATIONS.named(name) == OPERATIONS.traits(F.leaky_relu)


@pytest.mark.parametrize("name", ["convolution", "native_batch_norm", "_softmax", "_unsafe_view", "_to_copy", "relu_"])
def test_operators_with_other_names_are_declared(name) -> None:
    assert OPERATIONS.named(name).is_smooth


def test_elementwise_operations_are_elementwise() -> None:
    """Each element of the result is the same if the function runs on that element alone."""
    x = torch.linspace(0.1, 0.9, 6).double()
    names = {
        entry.name: function
        for function, entry in OPERATIONS._entries.items()
        if entry.traits.family == "activation" and entry.traits.is_elementwise and not entry.in_place
    }
    checked = 0
    for function in names.values():
        try:
            whole = function(x)
        except (TypeError, RuntimeError):  # needs further arguments
            continue
        if not isinstance(whole, Tensor):
            continue
        torch.testing.assert_close(whole, torch.cat([function(value[None]) for value in x]))
        checked += 1
    assert checked > 30


def test_a_new_operation_is_described_in_one_place() -> None:
    """Its traits alone make the class activation map pass over a move, and the rules see the image behind it."""
    mirrored = unsupported_function("mirrored", lambda x: x.flip(-1))

    @operation(mirrored, family="move", keeps_image=True, channels="kept")
    def mirror(call: Call, x: Tensor) -> Tensor:
        with call.recorder:
            return x.flip(-1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(mirrored(self.conv(mirrored(x)).relu()).mean((2, 3)))

    torch.manual_seed(0)
    model, images = Model().double(), torch.rand(2, 1, 6, 6).double()
    explanation = create_analyzer("lrp.flat", model).explain(images, strict=True)
    assert explanation.relevance.abs().sum() > 0
    layer = create_analyzer("grad_cam", model)
    assert layer.analyze(images).shape[-2:] == images.shape[-2:]
