"""Checksums distinguish tensors, and fingerprints distinguish weights and nothing else."""

import torch
from torch import nn

from pellucid.core.checksum import checksum, fingerprint


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())


def test_the_same_weights_have_the_same_fingerprint() -> None:
    model = make()
    expected = fingerprint(model)
    assert fingerprint(make()) == fingerprint(make().train()) == fingerprint(make().double()) == expected
    model[1].num_batches_tracked += 1  # a counter, which does not affect the outputs
    assert fingerprint(model) == expected
    model[0].weight.data = model[0].weight.data.t().contiguous().t()  # the same values with other strides
    assert fingerprint(model) == expected


def test_different_weights_have_different_fingerprints() -> None:
    seen = {fingerprint(make())}
    for change in (
        lambda model: model[0].weight.data[0, 0].add_(1e-6),
        lambda model: model[0].bias.data.copy_(model[0].bias.data.flip(0)),
        lambda model: model[1].running_var.mul_(1.001),
        lambda model: model.add_module("3", nn.Linear(3, 1)),
    ):
        model = make()
        change(model)
        seen.add(fingerprint(model))
    assert len(seen) == 5


def test_checksums_are_those_of_earlier_versions() -> None:
    """Save folders contain them, so a change would make old folders invalid."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for number, value in enumerate(model.state_dict().values()):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) / 8 + number)
    assert fingerprint(model) == "34d7aeef978d5be7b6789aeb6c5eb494d2244bc555fc6c1198d0bf3c04156d90"
    tensors = model.state_dict().values()
    assert checksum(*tensors) == "8cbb2acb6aa28df3a0bfc9241e885ef3e68ab49a2e27789ed23c856d9551418a"


def test_checksums_cover_values_of_every_dtype() -> None:
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64):
        values = torch.tensor([0, 1, 1], dtype=dtype)
        assert checksum(values) == checksum(values.clone()) != checksum(values.flip(0))
    assert checksum(torch.zeros(0, 3)) != checksum(torch.zeros(3, 0)) != checksum()
