import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.engine.model import LARGEST_TENSOR_BYTES, device_of, dtype_of, frozen, images_per_chunk, modules_of


class Counting(nn.Module):
    """Writes to one buffer and replaces another at every call, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x[0].detach() + torch.rand(2)
        return self.layer(x)


def everything_random() -> tuple[object, ...]:
    # Python's state is left out, since the runtime type checker draws from it.
    _, words, *rest = np.random.get_state()
    return tuple(words), *rest, tuple(torch.get_rng_state().tolist())


def look_at(model: nn.Module, fails: bool) -> None:
    with frozen(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model(torch.rand(4, 2))
        np.random.rand(), torch.rand(1)
        if fails:
            _ = 1 / 0


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_restored_exactly(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2), Counting())
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model(torch.rand(4, 2)).sum().backward()
    state, random_state = copy.deepcopy(model.state_dict()), everything_random()
    modes = [module.training for module in model.modules()]
    grads = [parameter.grad for parameter in model.parameters()]
    if fails:
        with pytest.raises(ZeroDivisionError):
            look_at(model, fails)
    else:
        look_at(model, fails)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True, True, True]
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert everything_random() == random_state


def test_an_existing_graph_still_backpropagates() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    loss = model(torch.rand(3, 2)).sum()
    with frozen(model):
        model(torch.rand(3, 2))
    loss.backward()
    assert model[0].weight.grad is not None


def test_device_and_dtype_of_models_without_parameters() -> None:
    assert device_of(nn.Flatten()) == torch.device("cpu")
    assert dtype_of(nn.BatchNorm1d(2, affine=False)) == torch.float32
    assert dtype_of(nn.Linear(1, 1, dtype=torch.bfloat16)) == torch.bfloat16


def draw(*_: object) -> None:
    np.random.rand(), torch.rand(1)


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        draw()
        return x


def hooked(register: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    getattr(model[0], register)(draw)
    return model


def replaced() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = Drawing().forward
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(2, 2), Drawing()),
        replaced,
        lambda: nn.TransformerEncoderLayer(2, 1, 2, activation=Drawing().forward, batch_first=True),
        lambda: nn.utils.parametrizations.weight_norm(nn.Sequential(nn.Linear(2, 2), Drawing())[0]),
        *(lambda name=name: hooked(f"register_{name}_hook") for name in ("forward", "forward_pre", "full_backward")),
    ],
    ids=["module", "forward", "activation", "weight_norm", "hook", "hook before", "hook backward"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_random_states_drawn_from_by_the_model_are_restored(build: Callable[[], nn.Module], fails: bool) -> None:
    model = build()

    def look() -> None:
        with frozen(model, draws="torch"):
            model(torch.rand(3, 1, 2, requires_grad=True)).sum().backward()
            if fails:
                raise ZeroDivisionError

    before = everything_random()
    try:
        look()
    except ZeroDivisionError:
        assert fails
    assert everything_random() == before


def test_random_states_drawn_from_by_global_hooks_are_restored() -> None:
    model, before = nn.Linear(2, 2), everything_random()
    handle = nn.modules.module.register_module_forward_hook(draw)
    try:
        with frozen(model, draws="torch"):
            model(torch.rand(3, 2))
    finally:
        handle.remove()
    assert everything_random() == before


def test_modules_are_listed_once_and_in_order() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), shared, nn.Sequential(Counting(), nn.Sequential()))
    model.register_module("none", None)
    assert modules_of(model) == list(model.modules())


def test_the_largest_tensor_determines_the_chunk_size() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 28 * 28, 10))
    assert images_per_chunk(wide, torch.zeros(64, 1, 28, 28)) == LARGEST_TENSOR_BYTES // (32 * 28 * 28 * 4)


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_one_chunk(count: int) -> None:
    assert images_per_chunk(nn.Flatten(), torch.zeros(count, 1, 5, 5)) == 1


def test_an_image_above_the_limit_runs_alone() -> None:
    assert images_per_chunk(nn.Flatten(), torch.zeros(2, 1, 3000, 3000)) == 1


def test_images_are_not_written_to() -> None:
    images = -torch.ones(2, 1, 3, 3)
    images_per_chunk(nn.ReLU(inplace=True), images)
    assert bool((images == -1).all())
