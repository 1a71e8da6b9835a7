"""Operations of real networks: recorded values and derivatives are torch's, and their rules keep every promised sum."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.composites import Step
from pellucid.engine.model import frozen
from pellucid.engine.relevance import propagate
from pellucid.engine.rules import Derivative

GRID = F.affine_grid(torch.tensor([[[0.8, 0.2, 0.1], [-0.1, 0.9, 0.0]]]).double(), [1, 3, 4, 4], align_corners=False)
INDEX = torch.tensor([[0, 2, 2], [1, 0, 3], [3, 3, 1]])
CONSTANT = torch.linspace(0.5, 1.5, 16).double().view(4, 4)


def places(x: Tensor) -> Tensor:
    return INDEX[None, :, None].expand(len(x), 3, 4, 3)


# all take (batch, 3, 4, 4)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "addcmul": lambda x: torch.addcmul(x, x.mean((2, 3), keepdim=True), CONSTANT, value=0.5),
    "addcmul of two values": lambda x: torch.addcmul(CONSTANT, x, x.sigmoid(), value=2),
    "addcdiv": lambda x: torch.addcdiv(x, x, CONSTANT, value=0.3),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "lerp with a gate": lambda x: torch.lerp(x, x * 2, x.mean((2, 3), keepdim=True).sigmoid()),
    "baddbmm": lambda x: (lambda y: torch.baddbmm(y, y, y, beta=0.5, alpha=2).view(x.shape))(x.flatten(0, 1)),
    "fold of unfold": lambda x: F.fold(F.unfold(x, 2, padding=1) * 0.5, (4, 4), 2, padding=1),
    "Tensor.unfold": lambda x: x.unfold(2, 2, 1).unfold(3, 3, 1).sum((-1, -2)),
    "cumsum": lambda x: x.cumsum(2) + x.cumsum(dim=-1),
    "diff": lambda x: torch.diff(x, dim=2),
    "cumprod": lambda x: (x + 0.5).cumprod(3),
    "prod": lambda x: (x + 1).prod(3),
    "exp": lambda x: torch.exp(x * 0.3),
    "expm1": lambda x: torch.expm1(x),
    "scan in log space": lambda x: (x * 0.2).cumsum(2).exp() * x,
    "softplus as a gate": lambda x: F.softplus(x) * x.flip(1),
    "sqrt": lambda x: (x.square() + 0.3).sqrt(),
    "rsqrt": lambda x: x * (x.square().mean(1, keepdim=True) + 0.1).rsqrt(),
    "std": lambda x: x / (x.std((2, 3), keepdim=True) + 0.1),
    "var_mean": lambda x: (lambda s: (x - s[1]) / (s[0] + 0.1).sqrt())(torch.var_mean(x, (2, 3), keepdim=True)),
    "logsumexp": lambda x: torch.logsumexp(x, (2, 3)),
    "logsumexp of masked values": lambda x: x.masked_fill(CONSTANT > 1, -torch.inf).logsumexp((2, 3)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1) * 2),
    "norm": lambda x: x / (x.norm(dim=1, keepdim=True) + 0.2),
    "L1 norm": lambda x: F.normalize(x, p=1, dim=1) + x.norm(1, 1, keepdim=True),
    "L3 norm": lambda x: torch.linalg.vector_norm(x + 2, 3, dim=1, keepdim=True) * 0.1 + x,
    "largest magnitude": lambda x: torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True) + x,
    "maximum": lambda x: torch.maximum(x, x.flip(2)),
    "minimum": lambda x: torch.minimum(x, x.mean((2, 3), keepdim=True)),
    "min along an axis": lambda x: x.min(2).values + x.amin(3),
    "max of two tensors": lambda x: x.max(x.flip(1) * 0.5),
    "einsum of three factors": lambda x: torch.einsum("bchw,hw,bcww->bch", x, CONSTANT, x),
    "outer product": lambda x: torch.stack([torch.outer(row, row) for row in x.mean((2, 3))]),
    "tensordot": lambda x: torch.tensordot(x, CONSTANT, dims=([3], [0])),
    "bilinear": lambda x: F.bilinear(x, x, CONSTANT.expand(2, 4, 4), CONSTANT[0, :2]),
    "cosine similarity": lambda x: F.cosine_similarity(x, x.flip(2) + 1, dim=1),
    "topk": lambda x: x.flatten(2).topk(5, dim=2).values,
    "topk as a gate": lambda x: (lambda top: top.values.softmax(-1) * x.flatten(2).gather(2, top.indices))(
        x.flatten(2).topk(3)
    ),
    "sort": lambda x: x.sort(3, descending=True)[0],
    "argsort and gather": lambda x: x.flatten(2).gather(2, x.flatten(2).argsort(2)[:, :, ::3]),
    "take along an axis": lambda x: torch.take_along_dim(x, places(x), 3),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(3, places(x), x[..., :3]),
    "index_add": lambda x: x.index_add(2, INDEX[0], x[:, :, :3], alpha=0.5),
    "scatter": lambda x: x.scatter(3, places(x)[..., :1], 0.7),
    "tril": lambda x: x.tril() + x.triu(1) * 2,
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "tensor_split": lambda x: torch.cat(torch.tensor_split(x, (1, 3), 2)[::-1], 2),
    "unbind": lambda x: torch.stack(x.unbind(3)[::-1], 3) + x.unbind(2)[1].unsqueeze(2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(torch.cat([x, x * 2], 1), 2),
    "grid_sample": lambda x: F.grid_sample(x, GRID.expand(len(x), -1, -1, -1), align_corners=False),
    "interpolate": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "glu": lambda x: F.glu(x, 2),
    "where on a mask": lambda x: torch.where(CONSTANT > 1, x, x.flip(1) * 0.2),
    "Tensor.where": lambda x: x.where(CONSTANT > 1, x.flip(1)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x * 2),
    "dynamic convolution": lambda x: torch.cat(
        [F.conv2d(image[None], image.mean((1, 2)).view(1, 3, 1, 1).sigmoid() + 1, padding=1) for image in x]
    ),
    "dynamic linear layer": lambda x: torch.stack([F.linear(image, image.mean(0), image[0, 0]) for image in x]),
    "Fourier transform": lambda x: torch.fft.fftn(x, dim=(2, 3)).real,
    "filter in Fourier space": lambda x: torch.fft.irfft2(
        torch.fft.rfft2(x) * torch.complex(CONSTANT[:, :3], CONSTANT[:, 1:]), s=(4, 4)
    ),
    "magnitude in Fourier space": lambda x: torch.fft.rfft(x + 1).abs(),
    "float32 island": lambda x: (x.float() * 2).relu().double(),
}  # fmt: skip
LOOSE = {"float32 island"}
KINKED = {"topk", "topk as a gate", "sort", "argsort and gather"}
"""Their indices differ between image and baseline, which DeepLIFT refuses."""


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function = nn.Conv2d(3, 3, 3, padding=1), function
        self.last = nn.Linear(function(torch.rand(1, 3, 4, 4).double()).numel(), 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)).flatten(1))


pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")
IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_are_those_of_torch(name) -> None:
    model, images = Between(FUNCTIONS[name]), IMAGES[:1]
    with frozen(model):
        result = propagate(model, images, (Step(Derivative()),), lambda logits: [torch.ones_like(logits)])[0]
    leaf = images.clone().requires_grad_()
    expected = model(leaf)
    rounding = 1e-6 if name in LOOSE else 1e-11
    torch.testing.assert_close(result.logits, expected.detach(), rtol=rounding, atol=rounding)
    torch.testing.assert_close(result.relevance, torch.autograd.grad(expected.sum(), leaf)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_relevance_and_absorbed_shares_sum_to_the_logit(name) -> None:
    model = Between(FUNCTIONS[name])
    explanation = create_analyzer("lrp.epsilon", model).explain(IMAGES, 1)
    size = explanation.relevance.flatten(1).abs().sum(1).maximum(explanation.logits[:, 1].abs())
    total = explanation.relevance.flatten(1).sum(1) + sum(explanation.absorbed.values())
    rounding = 1e-5 if name in LOOSE else 1e-9
    assert ((total - model(IMAGES).detach()[:, 1]).abs() <= rounding * size).all()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in KINKED])
def test_deeplift_sums_to_the_change_of_the_logit(name) -> None:
    model = Between(FUNCTIONS[name])
    explanation = create_analyzer("deeplift", model).explain(IMAGES, 1)
    change = (model(IMAGES) - model(torch.zeros_like(IMAGES)))[:, 1].detach()
    size = explanation.relevance.flatten(1).abs().sum(1).maximum(change.abs())
    rounding = 1e-5 if name in LOOSE else 1e-9
    assert ((explanation.relevance.flatten(1).sum(1) - change).abs() <= rounding * size).all()


@pytest.mark.parametrize(
    "name",
    ["addcmul", "addcdiv", "lerp", "fold of unfold", "Tensor.unfold", "cumsum", "diff", "tensordot", "roll", "unbind",
     "scatter_add", "index_add", "tril", "grid_sample", "interpolate", "Fourier transform", "filter in Fourier space",
     "topk", "sort", "maximum", "min along an axis", "where on a mask"],
)  # fmt: skip
def test_relevance_of_piecewise_linear_operations_is_input_times_gradient(name) -> None:
    """Without biases, LRP-ε with ε → 0 multiplies each input by its derivative."""
    model = Between(FUNCTIONS[name])
    nn.init.zeros_(model.first.bias)
    nn.init.zeros_(model.last.bias)
    relevance = create_analyzer("lrp.epsilon", model, epsilon=1e-14).analyze(IMAGES, 1)
    expected = create_analyzer("input_x_gradient", model).analyze(IMAGES, 1)
    torch.testing.assert_close(relevance, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "place"), [("topk", "topk"), ("sort", "sort"), ("argsort and gather", "gather")])
def test_deeplift_names_the_operation_whose_indices_differ(name, place) -> None:
    model, baseline = Between(FUNCTIONS[name]), torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(5)).double()
    with pytest.raises(UnsupportedOperation, match=f"first at {place} in the model itself"):
        create_analyzer("deeplift", model, baseline=baseline).analyze(IMAGES, 1)


@pytest.mark.parametrize(("order", "choose"), [(math.inf, Tensor.amax), (-math.inf, Tensor.amin)])
def test_norms_of_infinite_order_are_the_largest_and_the_smallest_size(order, choose) -> None:
    class Sizes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.vector_norm(x.unflatten(1, (3, 4)), ord=order, dim=2)

    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)).double()
    explanation = create_analyzer("lrp.epsilon", Sizes()).explain(x, 1)
    torch.testing.assert_close(explanation.logits, choose(x.unflatten(1, (3, 4)).abs(), 2))
    # all relevance is at the chosen value
    assert (explanation.relevance != 0).sum(1).tolist() == [1, 1]
