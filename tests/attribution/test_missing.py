"""A missing gradient is an error; a zero gradient is a map of zeros."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import Contrast, create_analyzer
from pellucid.core.errors import ModelError, UnsupportedOperation

METHODS = {
    "gradient": {},
    "gradient.baseline": {"baseline": 0.3},
    "input_x_gradient": {},
    "sensitivity": {},
    "simple_taylor": {"places": 2, "halvings": 2},
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
    "smoothgrad.squared": {"samples": 2},
    "smoothgrad.variance": {"samples": 2},
    "expected_gradients": {"samples": 2, "references": torch.rand(2, 1, 6, 6)},
    "grad_cam": {"relu": False},
    "layer_cam": {"relu": False},
}
every = pytest.mark.parametrize("name", METHODS)


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x * 1
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        return cotangent


class WithoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> None:
        return None


@torch.library.custom_op("pellucid_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda x: x.detach(),
    "marked": Marked.apply,
    "no backward": WithoutBackward.apply,
    "plain copy": lambda x: torch.tensor(x.tolist()).to(x),
}


class Net(nn.Module):
    """Four logits, the last two without a gradient."""

    def __init__(self, cut: Callable[[Tensor], Tensor], *, is_whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.cut, self.is_whole = nn.Conv2d(1, 4, 3), cut, is_whole
        self.heads = nn.ModuleList([nn.Linear(64, 2), nn.Linear(64, 2)])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = F.softplus(self.first(x)).flatten(1)
        first, second = self.heads[0](h), self.heads[1](h)
        return self.cut(torch.cat([first, second], 1)) if self.is_whole else torch.cat([first, self.cut(second)], 1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@every
@pytest.mark.parametrize("cut", CUTS)
def test_classes_without_gradient_are_named(name: str, cut: str, images: Tensor) -> None:
    analyzer = create_analyzer(name, Net(CUTS[cut]), **METHODS[name])
    with pytest.raises(UnsupportedOperation, match=r"output 2 changes .*'occlusion'"):
        analyzer.analyze(images, 2)
    with pytest.raises(UnsupportedOperation, match=r"outputs 2 and 3 change .*'occlusion'.* 0 and 1 is fine"):
        analyzer.analyze(images, "all")
    with pytest.raises(UnsupportedOperation, match=r"output 3 changes .* of 1 is fine"):
        analyzer.analyze(images, torch.tensor([1, 3, 1]))
    assert (analyzer.analyze(images, 1).flatten(1).abs().sum(1) > 0).all()
    assert create_analyzer("occlusion", analyzer.model, window=3, stride=3).analyze(images, 2).abs().sum() > 0


@every
def test_contrasts_and_custom_scores_without_gradient_are_refused(name: str, images: Tensor) -> None:
    analyzer = create_analyzer(name, Net(CUTS["detach"]), **METHODS[name])
    with pytest.raises(UnsupportedOperation, match="output 3"):
        analyzer.analyze(images, Contrast(3, 2))
    with pytest.raises(UnsupportedOperation, match="the target function's score changes"):
        analyzer.analyze(images, lambda logits: logits[:, 2:].sum(1))


@every
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:.*is deprecated")
def test_a_model_without_any_derivative_is_refused(name: str, images: Tensor) -> None:
    for cut in (WithoutBackward.apply, doubled):
        is_map = "cam" in name and cut is not doubled
        error, text = (ModelError, "does not depend") if is_map else (UnsupportedOperation, "occlusion")
        with pytest.raises(error, match=text):
            create_analyzer(name, Net(cut, is_whole=True), **METHODS[name]).analyze(images, 1)
    quantized = Net(lambda x: x)
    quantized.heads = nn.ModuleList([torch.ao.nn.quantized.dynamic.Linear(64, 2) for _ in range(2)])
    with pytest.raises(UnsupportedOperation, match=r"quantized.*[lL]inear.*before quantization"):
        create_analyzer(name, quantized, **METHODS[name]).analyze(images, 1)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:.*is deprecated")
def test_operator_without_derivative_on_a_side_branch_is_detected(images: Tensor) -> None:
    """The gradient is not zero, but it lacks one summand."""
    layer = torch.ao.nn.quantized.dynamic.Linear(36, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model.register_forward_hook(lambda module, inputs, output: output + layer(inputs[0].flatten(1)))
    with pytest.raises(UnsupportedOperation, match="quantized::linear_dynamic"):
        create_analyzer("gradient", model.eval()).analyze(images)


@every
def test_constant_logits_have_a_map_of_zeros(name: str, images: Tensor) -> None:
    """A dead ReLU makes the logit independent of the image."""
    model = Net(lambda x: F.relu(x - 100) + torch.zeros_like(x))
    assert (create_analyzer(name, model, **METHODS[name]).analyze(images, 2) == 0).all()


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad"])
def test_black_image_at_a_kink_is_accepted(name: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, bias=False)]
    black = torch.zeros(2, 1, 6, 6)
    assert (create_analyzer(name, nn.Sequential(*layers).eval()).analyze(black, 1) == 0).all()


def test_only_images_without_a_gradient_count() -> None:
    """Whether a gradient is missing may depend on the image."""
    torch.manual_seed(0)
    layer = nn.Linear(36, 3)

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where(inputs[0].mean((1, 2, 3))[:, None] > 0.5, output, output.detach())

    model = nn.Sequential(nn.Flatten(), layer)
    model.register_forward_hook(hook)
    bright, dark = torch.full((1, 1, 6, 6), 0.8), torch.rand(1, 1, 6, 6) * 0.5
    analyzer = create_analyzer("gradient", model.eval())
    torch.testing.assert_close(analyzer.analyze(bright, 1).flatten(1)[0], layer.weight[1].detach())
    with pytest.raises(UnsupportedOperation, match="output 1"):
        analyzer.analyze(torch.cat([bright, dark]), 1)


def test_probe_does_not_change_the_global_random_state(images: Tensor) -> None:
    analyzer = create_analyzer("gradient", Net(lambda x: F.relu(x - 100)))
    before = torch.get_rng_state()
    analyzer.analyze(images, 3)
    assert torch.equal(before, torch.get_rng_state())
