"""An augmented model behaves like its model and returns its Jacobian."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from pellucid.jacobians import Augmented, augment, jacobian

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.scale = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Parameter(torch.ones(1))
        self.title = "named"

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(self.norm(torch.tanh(self.inner(x))), 0.5, self.training) * self.scale

    def describe(self) -> str:
        return f"{self.title} of {self.inner.out_features}"


def new_model() -> Named:
    torch.manual_seed(0)
    return Named()


def train(model: nn.Module, steps: int = 5) -> Tensor:
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    return model.eval()(X)


def test_trains_saves_and_predicts_like_its_model() -> None:
    plain, augmented = new_model(), augment(new_model())
    assert torch.equal(train(plain), train(augmented))
    assert list(plain.state_dict()) == list(augmented.state_dict())
    assert all(torch.equal(value, augmented.state_dict()[key]) for key, value in plain.state_dict().items())
    other = new_model()
    other.load_state_dict(augmented.state_dict())
    augment(new_model()).load_state_dict(plain.state_dict())
    assert torch.equal(other.eval()(X), plain(X))
    assert [name for name, _ in augmented.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_returns_the_jacobian_in_training_mode_too() -> None:
    model = new_model()
    augmented = augment(model).train()
    assert torch.equal(augmented.return_jacobian(X), jacobian(model, X))
    assert augmented.return_jacobian(X, [1]).shape == (6, 1, 4)
    assert augmented.training
    assert model.training


def test_model_and_augmented_model_share_state() -> None:
    model = new_model()
    augmented = augment(model)
    augmented.double().eval()
    assert model.inner.weight.dtype == torch.float64
    assert not model.training
    assert augmented.describe() == "named of 3"
    assert augment(augmented) is augmented
    with pytest.raises(AttributeError, match="nothing"):
        _ = augmented.nothing


def test_copies_and_pickles() -> None:
    augmented = augment(new_model())
    buffer = io.BytesIO()
    torch.save(augmented, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(augmented), torch.load(buffer, weights_only=False)):
        assert isinstance(twin, Augmented)
        assert torch.equal(twin.return_jacobian(X), augmented.return_jacobian(X))
        twin.inner.weight.data.zero_()
        assert augmented.inner.weight.any()
        assert not twin.return_jacobian(X).any()


def test_works_inside_another_model() -> None:
    outer, twin = nn.Sequential(augment(new_model()), nn.Linear(3, 2)), nn.Sequential(new_model(), nn.Linear(3, 2))
    assert list(outer.state_dict()) == list(twin.state_dict())
    twin.load_state_dict(outer.state_dict())
    assert torch.equal(outer.eval()(X), twin.eval()(X))
    assert torch.equal(jacobian(outer, X), jacobian(twin, X))
