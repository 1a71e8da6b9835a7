"""In-place writes through views: the recorded values and derivatives are those of torch, however tensors share memory."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.engine.composites import Step
from pellucid.engine.model import frozen
from pellucid.engine.relevance import propagate
from pellucid.engine.rules import Derivative


class Block(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def derivative_by_tape(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs and the derivative of their weighted sum, both from a recorded pass."""
    model = Block(function)
    with frozen(model):
        result = propagate(model, x, (Step(Derivative()),), lambda logits: [weights_like(logits)])[0]
    return result.logits, result.relevance


def weights_like(x: Tensor) -> Tensor:
    return torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)


def check(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare with torch's values, and with central differences: autograd refuses many of these programs."""

    def value(x: Tensor) -> Tensor:
        return function(x.clone())

    logits, derivative = derivative_by_tape(lambda x: function(x * 1), x)
    torch.testing.assert_close(logits, value(x))
    steps = 1e-6 * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    slope = torch.stack([((value(x + h) - value(x - h)) * weights_like(logits)).sum() for h in steps]) / 2e-6
    torch.testing.assert_close(derivative.flatten(), slope, rtol=1e-6, atol=1e-7)


def through_a_slice(x: Tensor) -> Tensor:
    x[:, :4].mul_(2)
    return x


def through_an_older_view(x: Tensor) -> Tensor:
    view = x.view(-1, 2, 4)
    x.relu_()
    return view.flatten(1) * 3


def into_a_constant(x: Tensor) -> Tensor:
    board = x.new_zeros(len(x), 10)
    board[:, 1:9].copy_(x)
    board[:, 0].fill_(3.0)
    board[:, 4:7] += x[:, :3]
    return board


def overlapping_views(x: Tensor) -> Tensor:
    left, right, middle = x[:, :5], x[:, 3:], x[:, 2:6]
    left *= right.sum()
    middle.add_(left[:, 1:].clone())
    right.sub_(middle.mean(1, keepdim=True))
    return torch.cat([left, middle, right, x], 1)


def of_a_new_view(x: Tensor) -> Tensor:
    first = x[:, :3]
    x.mul_(2)
    second = x[:, 2:4]
    second.exp_()
    first.zero_()
    x[:, 7] = 1.5
    return torch.cat([first, second, x], 1)


def of_a_used_constant(x: Tensor) -> Tensor:
    factor = torch.linspace(1, 2, 8, dtype=x.dtype)
    y = x * factor
    factor[2:] += 1
    factor.view(2, 4)[0].zero_()
    return y + x * factor


def of_a_used_index(x: Tensor) -> Tensor:
    index = torch.tensor([0, 3, 5])
    y = x[:, index]
    index += 1
    return torch.cat([y, x[:, index]], 1)


def transposed(x: Tensor) -> Tensor:
    x.view(-1, 2, 4).transpose(1, 2)[:, 1:3].mul_(x.view(-1, 4, 2)[:, :2].clone())
    return x


def divided(x: Tensor) -> Tensor:
    x[:, 2:] /= x.abs().sum(1, keepdim=True) + 1
    x.div_(x.square().sum(1, keepdim=True) + 2)
    return x


def to_an_argument(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    torch.add(x, 1, out=out)
    torch.mul(out[:, :4].clone(), x[:, 4:], out=out[:, 2:6])
    return torch.sigmoid(out, out=x.new_empty(0)) + out


def reshaped_in_place(x: Tensor) -> Tensor:
    y = x * 2
    y.unsqueeze_(1)
    y[:, 0, 3] = y[:, 0, 4] * 2
    y.squeeze_(1)
    y[:, :2].t_().mul_(3)
    return y


def scattered(x: Tensor) -> Tensor:
    x.scatter_(1, torch.tensor([[1, 2]]).expand(len(x), 2), x[:, 5:7] * 2)
    x.index_add_(1, torch.tensor([0, 0, 7]), x[:, 1:4].clone())
    x.index_put_((torch.arange(len(x)), torch.tensor(3)), x[:, 6].clone(), accumulate=True)
    x.index_fill_(1, torch.tensor([2]), 0.3).masked_fill_(x > 1.2, 0.7)
    x.index_copy_(1, torch.tensor([4]), x[:, :1].clone())
    return x


def with_activations(x: Tensor) -> Tensor:
    F.relu(x[:, :4], True)
    F.leaky_relu(x[:, 2:], 0.2, inplace=True)
    return F.dropout(x, 0.5, training=False, inplace=True).addcmul_(x, x[:, :1].clone(), value=0.5)


def other_dtype(x: Tensor) -> Tensor:
    board = torch.zeros(len(x), 8)
    board[:, 2:] = x[:, 2:]
    board[:, :3].copy_(x[:, :3])
    board.add_(x)
    return board.to(x.dtype)


PROGRAMS = (
    through_a_slice, through_an_older_view, into_a_constant, overlapping_views, of_a_new_view, of_a_used_constant,
    of_a_used_index, transposed, divided, to_an_argument, reshaped_in_place, scattered, with_activations,
)  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_writes_reach_every_tensor_of_the_same_memory(program, batch) -> None:
    x = torch.randn(batch, 8, generator=torch.Generator().manual_seed(0)).double()
    if program is overlapping_views and batch > 1:
        pytest.skip("mixes the images")
    check(program, x)


class Program:
    """A random program of views of one tensor, reads and in-place writes; each step may use any earlier tensor."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, x: Tensor) -> Tensor:
        draw = random.Random(self.seed)
        tensors = [x.view(-1, 4, 4), torch.ones(len(x), 4, 4, dtype=x.dtype)]
        for _ in range(12):
            y = draw.choice(tensors)
            match draw.randrange(6):
                case 0:
                    tensors.append(y.transpose(1, 2))
                case 1:
                    start, axis = draw.randrange(3), draw.choice((1, 2))
                    view = y.narrow(axis, min(start, y.shape[axis] - 1), max(1, y.shape[axis] - 1 - start))
                    tensors.append(view)
                case 2:
                    other = draw.choice(tensors)
                    y.mul_(other[:, :1, :1].clone() + 0.5)
                case 3:
                    y.copy_(draw.choice(tensors)[:, -1:, -1:].tanh())
                case 4:
                    y[:, draw.randrange(y.shape[1])] += draw.choice(tensors)[:, 0, :1] * 0.5
                case 5:
                    y.clamp_(-0.8, 1.5)
        return torch.cat([y.flatten(1) for y in tensors], 1)


@pytest.mark.parametrize("seed", range(25))
def test_random_programs_of_views_and_writes_agree_with_torch(seed) -> None:
    program = Program(seed)
    # beside x itself, since a program may overwrite all of it
    check(
        lambda x: torch.cat([x.clone(), program(x)], 1),
        torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)).double(),
    )


def test_writes_keep_the_dtype_of_their_target() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double()
    logits, derivative = derivative_by_tape(other_dtype, x)
    torch.testing.assert_close(logits, other_dtype(x))
    torch.testing.assert_close(derivative, 2 * weights_like(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "guided_backprop"])
def test_writes_through_views_are_explained_like_their_functional_form(name) -> None:
    def pasted(x: Tensor) -> Tensor:
        board = x.new_zeros(len(x), 10)
        board[:, 1:9].copy_(x)
        board[:, 2:4].mul_(0.5)
        return board

    def functional(x: Tensor) -> Tensor:
        board = F.pad(x, (1, 1))
        return torch.cat([board[:, :2], board[:, 2:4] * 0.5, board[:, 4:]], 1)

    torch.manual_seed(0)
    first, last, images = nn.Linear(6, 8), nn.Linear(10, 3), torch.rand(3, 6).double()
    maps = [
        create_analyzer(name, nn.Sequential(first, nn.ReLU(), Block(middle), last).double()).analyze(images, 1)
        for middle in (pasted, functional)
    ]
    torch.testing.assert_close(*maps)
