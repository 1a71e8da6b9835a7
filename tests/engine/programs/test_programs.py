"""Programs: exported networks agree with torch, and what cannot be exported is refused by name."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import ACTIVATIONS, CLASSES, NETWORKS, random_images, random_network
from pellucid import create_analyzer
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.model import frozen
from pellucid.engine.programs.export import export_program
from pellucid.engine.programs.functions import FUNCTIONS, recognized
from pellucid.engine.programs.interpreter import run_program
from pellucid.engine.programs.program import Program


def export(model: nn.Module, image: Tensor) -> Program:
    with frozen(model):
        return export_program(model, image)


def close(own: np.ndarray, expected: Tensor) -> bool:
    wanted = expected.detach().double().numpy()
    return bool(np.abs(own - wanted).max() <= 1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_network_computes(name: str) -> None:
    model, size = random_network(name)
    images = random_images(size, 2)
    program = export(model, images[:1])
    assert program.input_shape == size
    assert program.classes == CLASSES
    double = model.double()
    for number, image in enumerate(images.double()):
        leaf = image.clone().requires_grad_()
        logits = double(leaf[None])[0]
        target = int(logits.argmax()) if number == 0 else 3
        (gradient,) = torch.autograd.grad(logits[target], leaf)
        explained = create_analyzer("lrp.epsilon", double).explain(image[None], target)
        outcome = run_program(program, image.numpy(), None if number == 0 else 3)
        assert close(outcome.logits, logits)
        assert close(outcome.gradient, gradient)
        assert close(outcome.relevance, explained.relevance[0])
        expected = {place: float(value[0]) for place, value in explained.absorbed.items()}
        assert outcome.absorbed == pytest.approx(expected, abs=1e-4 * abs(float(logits[target].detach())))


def test_batch_norms_are_folded_and_dropout_and_views_are_omitted() -> None:
    model, size = random_network("depthwise")
    program = export(model, torch.rand(1, *size))
    operations = [(step["op"], step.get("function")) for step in program.steps]
    # the second batch norm follows a pooling, so there is no layer to fold it into
    assert operations == [
        ("convolution", None),
        ("activation", "relu"),
        ("average", None),
        ("scale", None),
        ("activation", "tanh"),
        ("dense", None),
    ]
    assert program.steps[1]["options"] == {"slope": 0.01}
    assert program.steps[3]["rule"] == "epsilon"


def test_multiplications_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5, 2, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 4))
    program = export(model, torch.rand(1, 3, 9, 9))
    assert program.multiply_adds == 8 * 9 * (3 * 25) + 8 * 9 * 4
    assert len(program.weights) == sum(parameter.numel() for parameter in model.parameters())


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x.mean((2, 3), keepdim=True).sigmoid()).flatten(1)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        return F.scaled_dot_product_attention(rows, rows, rows).flatten(1)


class Sine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Module()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x).flatten(1)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Gated(), "mul"),
        (Attention(), "matmul"),
        (Sine(), "sin"),
        (nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.Flatten()), "conv_transpose2d in '0'"),
        (nn.Sequential(nn.LayerNorm(6), nn.Flatten()), "layer_norm in '0'"),
        (nn.Sequential(nn.PReLU(2), nn.Flatten()), "prelu in '0'"),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Flatten(1, 2), nn.Linear(6 * 2, 3)), "linear in '2'"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "softmax"),
        (nn.Conv2d(1, 4, 3), "expected one row of logits"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_unknown_operations_are_refused_by_name(model: nn.Module, named: str) -> None:
    channels = 2 if isinstance(model, nn.Sequential) and isinstance(model[0], nn.PReLU) else 1
    with pytest.raises(UnsupportedOperation, match=named.replace("(", r"\(")):
        export(model, torch.rand(1, channels, 6, 6))


@pytest.mark.parametrize("one", ACTIVATIONS, ids=repr)
def test_functions_are_recognized_with_their_options(one: nn.Module) -> None:
    one = copy.deepcopy(one)
    name, options = recognized(one, torch.zeros(1, 3, 2, 2)) or ("", {})
    x = np.linspace(-8, 8, 1001) + 1e-3
    leaf = torch.tensor(x, requires_grad=True)
    expected = one.double()(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    values, slopes = FUNCTIONS[name](x, **options)
    assert close(values, expected)
    assert close(slopes, slope)


def test_functions_that_only_look_alike_are_not_recognized() -> None:
    shape = torch.zeros(1, 2, 2, 2)
    unlike: list[Any] = [
        torch.sin,
        lambda x: torch.relu(x) + 1e-3,
        lambda x: torch.where(x > 5, x * 2, x.relu()),  # a ReLU for small values
        lambda x: x.clamp(0, 50),  # and one far away
        lambda x: torch.maximum(x, torch.zeros_like(x)),  # half a derivative at 0
        lambda x: x * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1),
    ]
    assert [recognized(function, shape) for function in unlike] == [None] * 6


def test_windows_that_depend_on_the_number_of_images_are_refused() -> None:
    class Warped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = F.affine_grid(torch.eye(2, 3)[None] * 0.9, [1, 1, 4, 4], align_corners=False)
            return F.grid_sample(x, grid, align_corners=False).flatten(1)

    with pytest.raises(UnsupportedOperation, match="grid_sample"):
        export(Warped(), torch.rand(1, 1, 6, 6))


def test_half_precision_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="it computes in bfloat16"):
        export(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16(), torch.rand(1, 1, 2, 2, dtype=torch.bfloat16))
