"""A fingerprint distinguishes weights and nothing else."""

import torch
from torch import nn

from pellucid.engine.fingerprint import fingerprint


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
