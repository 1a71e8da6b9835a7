"""Each operation of torch alone: the native kernel computes its derivative right, or refuses it."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jacobians.networks import reference
from pellucid.core.errors import UnsupportedOperation
from pellucid.jacobians import jacobian

pytestmark = pytest.mark.usefixtures("native")

WEIGHT = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
CHANNELS = torch.tensor([0.5, 1.2, 0.9]).double()
ONES = torch.ones(2, 1, 4, 4).double()

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # both arguments depend on the images
    "power": lambda x: x.abs() ** x,
    "clamp": lambda x: torch.clamp(x, min=0.3 * x.flip(-1)),
    "clamp_min": lambda x: torch.clamp_min(x, 0.3 * x.flip(-1)),
    "reversed_subtraction": lambda x: torch.rsub(x, x * x, alpha=2),
    "addition": lambda x: torch.add(x, x * 2, alpha=3),
    "quotient": lambda x: x / (x.sum(1, keepdim=True) + 9),
    "product": lambda x: x * x.sum(1, keepdim=True),
    "where": lambda x: torch.where(x > 0, x, x * x),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "hypot": lambda x: torch.hypot(x, x * x),
    "atan2": lambda x: torch.atan2(x, x + 1),
    "bmm": lambda x: x[:, 0] @ x[:, 1],
    "einsum": lambda x: torch.einsum("nchw,nchv->ncwv", x, x),
    "cdist": lambda x: torch.cdist(x[:, 0], x[:, 1]),
    # one argument does
    "base": lambda x: CHANNELS.view(3, 1, 1) ** x,
    "number_base": lambda x: 2**x,
    "exponent": lambda x: x.abs() ** CHANNELS.view(3, 1, 1),
    "clamp_below": lambda x: torch.clamp(torch.zeros_like(x), min=x),
    "clamp_max": lambda x: torch.clamp(x, max=CHANNELS.view(3, 1, 1)),
    "dividend": lambda x: 2 / (x + 9),
    "one_channel_times_five": lambda x: x[:, :1] * WEIGHT[:, :1, :1, :1].view(5, 1, 1),
    "one_pixel_plus_image": lambda x: x[:, :, :1, :1] + WEIGHT[0, 0].repeat(2, 2),
    "remainder": lambda x: torch.remainder(x, CHANNELS.view(3, 1, 1)),
    # constants between values
    "concatenation": lambda x: torch.cat([x, torch.ones(len(x), 2, 4, 4).double(), x * 2], 1),
    "several_constants": lambda x: torch.cat([ONES[: len(x)], x, ONES[: len(x)].repeat(1, 2, 1, 1)], 1),
    "stack": lambda x: torch.stack([x, torch.ones_like(x), x * 3], 2),
    # moves and views
    "movedim": lambda x: x.movedim(1, 3),
    "transposed_matrix": lambda x: x.mT,
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "tril": lambda x: x.tril(),
    "rotation": lambda x: x.rot90(1, (2, 3)),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 3),
    "as_strided": lambda x: x.as_strided((x.shape[0], 4), (48, 2)),
    "unfold": lambda x: F.unfold(x, 2),
    "unfold_axis": lambda x: x.unfold(2, 2, 1),
    "unbind": lambda x: x.unbind(1)[1] + x.unbind(2)[0].sum(1, keepdim=True),
    "negative_padding": lambda x: F.pad(x, (-1, 2, 0, -1)),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "one_image_squeezed": lambda x: F.relu(x.squeeze()).view(len(x), -1),
    # reductions and pooling
    "sum_of_some_axes": lambda x: x.sum((1, -1)),
    "mean_from_the_end": lambda x: x.mean((-1, -2)),
    "max": lambda x: x.max(1).values,
    "median": lambda x: x.median(1).values,
    "topk": lambda x: x.topk(2, 1).values,
    "cummax": lambda x: x.cummax(1).values,
    "variance": lambda x: x.var(1),
    "norm": lambda x: x.norm(dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "lp_pool": lambda x: F.lp_pool2d(x.abs(), 2, 2),
    "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 3),
    "divided_average": lambda x: F.avg_pool2d(x, 3, 1, 1, True, False, 2),
    "bilinear": lambda x: F.interpolate(x, size=(3, 5), mode="bilinear"),
    # layers
    "transposed_convolution": lambda x: F.conv_transpose2d(x, WEIGHT.transpose(0, 1)[:, :2], stride=2),
    "group_norm": lambda x: F.group_norm(x, 3),
    "response_norm": lambda x: F.local_response_norm(x, 2),
    "glu": lambda x: F.glu(x, 2),
    "rrelu": lambda x: F.rrelu(x),
    "softsign": lambda x: F.softsign(x),
    "tanhshrink": lambda x: F.tanhshrink(x),
    "square_root_at_zero": lambda x: torch.sqrt(F.relu(x)),
    "steps": lambda x: x.round() + x,
    "fourier": lambda x: torch.fft.rfft(x).abs(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation(name: str) -> None:
    model = OPERATIONS[name]
    for batch in (1, 2):
        x = torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(batch)).double()
        expected = reference(model, x)
        results = [jacobian(model, x)]
        with suppress(UnsupportedOperation):
            results.append(jacobian(model, x, method="native"))
        for result in results:
            torch.testing.assert_close(result.reshape(expected.shape), expected, rtol=1e-10, atol=1e-10)


DYNAMIC: dict[str, Callable[[Tensor], Tensor]] = {
    "weights": lambda x: F.conv2d(x, WEIGHT * x.mean()),
    "bias": lambda x: F.conv2d(x, WEIGHT, x.sum() * torch.ones(5).double()),
    "weights alone": lambda x: F.conv2d(torch.ones(1, 3, 4, 4).double(), WEIGHT * x.mean()),
    "scale": lambda x: F.batch_norm(x, CHANNELS, CHANNELS, x.mean((0, 2, 3)), CHANNELS),
    "shift": lambda x: F.batch_norm(x, CHANNELS, CHANNELS, CHANNELS, x.mean((0, 2, 3))),
    "slopes": lambda x: F.prelu(x, x.mean((0, 2, 3))),
    "matrix": lambda x: F.linear(x.flatten(1), x.flatten(1) * 2),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_weights_that_depend_on_the_image(name: str) -> None:
    """This is possible one image at a time."""
    model, x = DYNAMIC[name], torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    expected = reference(model, x)
    result = jacobian(model, x)
    torch.testing.assert_close(result.reshape(expected.shape), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(UnsupportedOperation):
        jacobian(model, x, method="native")
