import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pellucid.core.errors import ModelError, ShapeError
from pellucid.jacobians import check_jacobian, jacobian

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(activation: nn.Module, *, pool: nn.Module | None = None, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, bias=bias), activation, pool or nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 5)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.Softplus()])
def test_a_smooth_network_agrees_and_has_no_kinks(activation: nn.Module) -> None:
    model = network(activation)
    check = check_jacobian(model, IMAGES, jacobian(model, IMAGES), samples=64)
    assert not check.on_kink.any()
    assert float(check.error.max()) < 1e-8
    assert check.given_error is not None
    assert float(check.given_error.max()) < 1e-6
    assert check.largest() == float(check.given_error.max())
    exact = jacobian(network(activation).double(), IMAGES.double())
    torch.testing.assert_close(check.scale, exact.abs().amax((1, 2, 3, 4)))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_strong_curvature_is_not_a_kink(scale: float) -> None:
    class Waves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(scale * x.flatten(1)[:, :8])

    check = check_jacobian(Waves(), IMAGES, samples=64)
    assert not check.on_kink.any()
    assert float(check.error.max()) < 1e-5 * scale


def test_a_relu_network_away_from_zero_agrees() -> None:
    check = check_jacobian(network(nn.ReLU()), IMAGES, samples=64)
    assert not check.on_kink.any()
    assert float(check.error.max()) < 1e-8


def test_relus_at_zero_are_kinks() -> None:
    images = IMAGES.clone()
    images[1] = 0  # without a bias, every ReLU is exactly at zero
    images[2, :, :4] = 0  # likewise in the upper half only
    check = check_jacobian(network(nn.ReLU(), bias=False), images, samples=64)
    assert check.on_kink.tolist() == [False, True, True, False]
    assert bool(check.entries_on_kink[1].all())
    assert bool(check.error[1].isnan())
    lower = check.positions[2] >= 5 * 8
    assert not check.entries_on_kink[2][lower].any()
    assert float(check.error[2]) < 1e-8


def test_ties_of_a_max_pool_are_kinks() -> None:
    images = IMAGES.clone()
    images[0, :, :, :5] = 0.25
    check = check_jacobian(network(nn.Softplus(), pool=nn.MaxPool2d(2)), images, samples=64)
    assert check.on_kink.tolist() == [True, False, False, False]
    assert check.entries_on_kink[0].any()
    assert float(check.error.max()) < 1e-8  # its smooth entries still agree
    assert check.largest() == float(check.error[1:].max())
    assert check.largest(with_kinks=True) == float(check.error.max())


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-7, 2e-7, 4e-7, 8e-7, 2e-6])
def test_a_kink_near_the_image_never_counts_as_an_error(distance: float) -> None:
    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.flatten(1) - 0.5 - distance).sum(1, keepdim=True)

    check = check_jacobian(Bent(), torch.full((1, 1, 2, 2), 0.5), samples=4)
    assert bool(check.on_kink[0]) == (distance < 9e-7)
    assert check.largest(with_kinks=True) is None or check.largest(with_kinks=True) < 1e-8


def test_a_wrong_jacobian_is_detected() -> None:
    model = network(nn.ReLU())
    wrong = jacobian(model, IMAGES)
    wrong[2, 4] *= 1.01
    check = check_jacobian(model, IMAGES, wrong, samples=16)
    assert check.given_error is not None
    assert float(check.given_error[2]) > 1e-3 * float(check.scale[2])
    assert float(check.given_error[[0, 1, 3]].max()) < 1e-6
    assert check.largest() == float(check.given_error[2])


def test_a_wrong_derivative_in_the_model_itself_is_detected() -> None:
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x**2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    class WrongModel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return WrongGradient.apply(x).flatten(1)[:, :3]

    assert float(check_jacobian(WrongModel(), IMAGES, samples=64).error.min()) > 0.01


def test_an_undefined_jacobian_does_not_pass() -> None:
    class Undefined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * torch.nan

    largest = check_jacobian(Undefined(), IMAGES).largest()
    assert largest is not None
    assert largest != largest  # NaN


class Casting(nn.Module):
    """Lowers the precision in between, stores plain tensors, and creates new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = weight_norm(nn.Linear(64, 8))
        self.mean = torch.full((64,), 0.13)
        self.mix = self.layer.weight @ torch.rand(64, 3)  # neither a leaf nor a parameter

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32).flatten(1) - self.mean
        hidden = torch.tanh(self.layer(x)) + torch.zeros(8) @ torch.eye(8)
        return (hidden @ self.mix).float()


def test_casts_in_the_model_do_not_blur_the_check() -> None:
    torch.manual_seed(0)
    check = check_jacobian(Casting(), IMAGES, samples=64)
    assert float(check.error.max()) < 1e-8
    assert not check.on_kink.any()


def test_leaves_the_model_alone() -> None:
    model = network(nn.ReLU()).train()
    before = [parameter.clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    check_jacobian(model, IMAGES)
    assert model.training
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_samples_depend_on_the_seed_alone() -> None:
    first, same, other = (check_jacobian(network(nn.Tanh()), IMAGES, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.positions, same.positions)
    assert torch.equal(first.error, same.error)
    assert not torch.equal(first.positions, other.positions)
    assert all(len(set(row.tolist())) == 16 for row in first.positions)


def test_invalid_arguments_are_rejected() -> None:
    model = network(nn.Tanh())
    with pytest.raises(ShapeError, match=r"expected a Jacobian.*got \(4, 5, 8, 8\)"):
        check_jacobian(model, IMAGES, torch.zeros(4, 5, 8, 8))
    with pytest.raises(ShapeError, match="samples is 0"):
        check_jacobian(model, IMAGES, samples=0)


def test_a_model_that_cannot_be_copied_or_converted_is_rejected() -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("only float32 here")
            return x.flatten(1)

    class Alone(nn.Flatten):
        def __deepcopy__(self, memo: object) -> "Alone":
            raise TypeError("there is only one of me")

    with pytest.raises(ModelError, match="float64.*only float32"):
        check_jacobian(Single(), IMAGES)
    with pytest.raises(ModelError, match="copied.*only one"):
        check_jacobian(Alone(), IMAGES)
