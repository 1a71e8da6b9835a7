import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

import pellucid.jacobians
from pellucid.core.errors import ShapeError, UnknownName, UnsupportedOperation
from pellucid.engine import model as engine_model
from pellucid.jacobians import jacobian

IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3)
    )


def reference(model: nn.Module, x: Tensor) -> Tensor:
    model = model.eval()
    return vmap(jacrev(lambda image: model(image[None])[0]))(x).detach()


def test_equals_torch_func_and_leaves_the_model_unchanged() -> None:
    model = network().double().train()
    random_state = torch.get_rng_state()
    result = jacobian(model, IMAGES.double())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not result.requires_grad
    torch.testing.assert_close(result, reference(network().double(), IMAGES.double()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_chunk_size_does_not_change_the_result(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = network().double(), jacobian(network().double(), IMAGES.double())
    torch.testing.assert_close(jacobian(model, IMAGES.double(), chunk=chunk), whole, rtol=0, atol=1e-14)
    monkeypatch.setattr(engine_model, "LARGEST_TENSOR_BYTES", chunk * 64 * 8)
    torch.testing.assert_close(jacobian(model, IMAGES.double()), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
def test_some_outputs_in_any_order(method: str) -> None:
    whole = jacobian(network(), IMAGES)
    some = jacobian(network(), IMAGES, [2, 0, 2], method=method)
    torch.testing.assert_close(some, whole[:, [2, 0, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_outputs_of_any_shape(shape: tuple[int, ...], method: str) -> None:
    class Shaped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :6] ** 2).reshape(len(x), 2, 3)[(slice(None), *(slice(size) for size in shape))]

    class Summed(Shaped):
        def forward(self, x: Tensor) -> Tensor:
            values = super().forward(x)
            return values if len(shape) == 2 else values.sum(2) if len(shape) == 1 else values.sum((1, 2))

    result = jacobian(Summed(), IMAGES, method=method)
    assert result.shape == (4, *shape, 1, 6, 6)
    torch.testing.assert_close(result, reference(Summed(), IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_with_gradients_disabled(context: type) -> None:
    model = network()
    with context():
        result = jacobian(model, IMAGES.clone())
    torch.testing.assert_close(result, reference(network(), IMAGES), rtol=1e-5, atol=1e-6)


def test_a_model_with_another_dtype() -> None:
    result = jacobian(network().bfloat16(), IMAGES)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, reference(network(), IMAGES), rtol=0.1, atol=0.05)


def test_the_public_function_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(pellucid.jacobian)) is pellucid.jacobian is jacobian


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(UnknownName, match="did you mean 'finite_difference'"):
        jacobian(network(), IMAGES, method="finite_differences")
    with pytest.raises(ShapeError, match=r"outputs is \[3\].*from 0 to 2"):
        jacobian(network(), IMAGES, [3])
    with pytest.raises(ShapeError, match="no images"):
        jacobian(network(), IMAGES[:0])
    with pytest.raises(ShapeError, match=r"\(2, 6\) for 4 images"):
        jacobian(_Halved(), IMAGES)


def test_outputs_without_a_gradient_are_rejected() -> None:
    with pytest.raises(UnsupportedOperation, match="detach cuts the output off"):
        jacobian(_Detached(), IMAGES)


class _Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:2, 0, 0]


class _Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)
