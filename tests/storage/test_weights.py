"""Weights as safetensors."""

import pytest
import torch
from torch import nn

from pellucid.core.errors import SaveError
from pellucid.storage.weights import pack_weights, unpack_weights


def test_tied_and_strided_weights_survive_a_round_trip():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.rand(3, 2)[:, 0])
    content = pack_weights(model)
    assert content == pack_weights(model)
    assert {name: value.tolist() for name, value in unpack_weights(content).items()} == {
        name: value.tolist() for name, value in model.state_dict().items()
    }


def test_damaged_weights_are_refused():
    with pytest.raises(SaveError, match="damaged"):
        unpack_weights(b"\x00" * 7)
