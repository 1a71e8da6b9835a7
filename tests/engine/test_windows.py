"""Max-pooling by slices gives the values, winners and gradients of torch's own."""

import pytest
import torch
import torch.nn.functional as F

from pellucid.engine.windows import FastMaxPool, windows_of

GEOMETRIES = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (2, 3), "stride": (3, 1), "dilation": (2, 1)},
    {"kernel_size": 1},
    {"kernel_size": [3], "stride": [2], "padding": [1], "dilation": [2]},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("levels", [4, 10**6])
def test_agrees_with_torch_also_in_ties(geometry, levels) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-levels, levels, (2, 3, 9, 11), generator=generator) / levels).requires_grad_()
    expected = F.max_pool2d(x, **geometry)
    windows = windows_of(x, **geometry)
    assert windows is not None
    value = FastMaxPool.apply(x, windows)
    assert torch.equal(value, expected)
    cotangent = torch.rand(value.shape, generator=generator)
    (ours,), (theirs,) = (torch.autograd.grad(y, x, cotangent) for y in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert windows_of(x, **geometry, ceil_mode=True) is None
