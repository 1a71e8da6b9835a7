"""Fast max-pooling has the values, winners and gradients of torch's."""

import pytest
import torch
import torch.nn.functional as F

from pellucid.engine.operations.layers import fast_max_pool

GEOMETRIES = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (2, 3), "stride": (3, 1), "dilation": (2, 1)},
    {"kernel_size": 1},
    {"kernel_size": [3], "stride": [2], "padding": [1], "dilation": [2]},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("levels", [4, 10**6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_agrees_with_torch_including_ties(geometry, levels, layout) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-levels, levels, (2, 3, 9, 11), generator=generator) / levels
    x = x.contiguous(memory_format=layout).requires_grad_()
    expected = F.max_pool2d(x.contiguous(), **geometry)
    value = fast_max_pool(F.max_pool2d, (x,), geometry)
    assert value is not None
    assert torch.equal(value, expected)
    cotangent = torch.rand(value.shape, generator=generator)
    (ours,), (theirs,) = (torch.autograd.grad(y, x, cotangent) for y in (value, expected))
    torch.testing.assert_close(ours, theirs)


def test_other_calls_are_left_to_torch() -> None:
    x = torch.zeros(1, 1, 4, 4)
    assert fast_max_pool(F.avg_pool2d, (x, 2), {}) is None
    assert fast_max_pool(F.max_pool2d, (x[0], 2), {}) is None
    assert fast_max_pool(F.max_pool2d, (x, 2), {"return_indices": True}) is None
