"""Layers of a model and the filters of its first layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pellucid.engine.layers import first_filters, layers
from pellucid.models._adapted import adapted


class Functional(nn.Module):
    """Owns weights that it uses by functions, and a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(5, 3, 3, 3))
        self.head = nn.Linear(5, 2)
        self.unused = nn.Linear(7, 7)

    def forward(self, x):
        return self.head(functional.relu(functional.conv2d(x, self.kernel)).mean((2, 3)))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = self.again(self.first(x.flatten(1)))[:, None]
        return self.attention(x, x, x)[0][:, 0]


def test_layers_come_in_the_order_of_the_forward_pass():
    rows = layers(Functional(), torch.zeros(1, 3, 6, 6))
    assert [(row.name, row.kind, row.shape, row.parameters, row.calls) for row in rows] == [
        ("", "Functional", (2,), 135, 1),
        ("head", "Linear", (2,), 12, 1),
        ("unused", "Linear", None, 56, 0),
    ]


def test_shared_parameters_count_once_and_those_of_an_uncalled_child_belong_to_its_user():
    model = Shared()
    rows = {row.name: row for row in layers(model, torch.zeros(1, 1, 2, 2))}
    assert rows["first"].parameters == 20
    assert rows["first"].calls == 2
    # the projection inside the attention is used as a function
    assert rows["attention"].parameters == sum(one.numel() for one in model.attention.parameters())
    assert sum(row.parameters for row in rows.values()) == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_unchanged(training):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(2, 1, 5, 5))
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers(model, torch.rand(1, 1, 5, 5))
    first_filters(model, torch.rand(1, 1, 5, 5))
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_names_leave_out_the_wrapper_of_a_user_model():
    names = [row.name for row in layers(adapted(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), torch.zeros(1, 1, 2, 2))]
    assert names == ["0", "1"]


def test_first_filters_of_each_kind_of_first_layer():
    model = Functional()
    assert torch.equal(first_filters(model, torch.zeros(1, 3, 6, 6)), model.kernel)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    assert torch.equal(first_filters(linear, torch.zeros(1, 3, 2, 2)), linear[1].weight.reshape(4, 3, 2, 2))
    # kernels over many channels, or of one pixel, are no images
    assert first_filters(nn.Conv2d(4, 2, 3), torch.zeros(1, 4, 6, 6)) is None
    assert first_filters(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 6, 6)) is None
    assert first_filters(nn.Identity(), torch.zeros(1, 3, 6, 6)) is None


class Reordered(nn.Module):
    """A linear layer over all pixels, or over as many features, in one of several orders."""

    def __init__(self, way):
        super().__init__()
        self.way, self.linear = way, nn.Linear(48, 4)

    def forward(self, x):
        return self.linear(self.way(x).flatten(1))


@pytest.mark.parametrize(
    ("way", "is_shown"),
    [
        (lambda x: x, True),
        (
            lambda x: (x - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1),
            True,
        ),
        (lambda x: 2 * x - 1, True),
        (lambda x: x.permute(0, 2, 3, 1), False),
        (lambda x: x.mT, False),
        (torch.sin, False),
        (lambda x: x.cumsum(3), False),
    ],
    ids=["plain", "normalized", "scaled", "channels last", "transposed", "features", "sums"],
)
def test_weights_of_other_inputs_than_the_pixels_in_order_are_no_filters(way, is_shown):
    images = 3 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert (first_filters(Reordered(way), images) is not None) == is_shown
