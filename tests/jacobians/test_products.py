"""Products, spectrum and class means, compared with the full Jacobian."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from jacobians.models import reference, zoo
from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.jacobians import (
    _class_means,
    _plan,
    _spectrum,
    jacobian_class_means,
    jacobian_product,
    jacobian_spectrum,
    transposed_product,
)

X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NAMES = ["linear", "mlp", "convolution", "residual", "unflattened", "decoder", "strided"]


@pytest.mark.parametrize("name", NAMES)
def test_products_with_the_jacobian_and_its_transpose(name: str) -> None:
    model = zoo()[name]
    full = reference(model, X).reshape(6, -1, 36)
    v, u = torch.randn_like(X), torch.randn_like(model(X)).detach()
    expected = torch.einsum("bki,bi->bk", full, v.flatten(1))
    torch.testing.assert_close(jacobian_product(model, X, v).flatten(1), expected, rtol=1e-9, atol=1e-12)
    expected = torch.einsum("bki,bk->bi", full, u.flatten(1))
    torch.testing.assert_close(transposed_product(model, X, u).flatten(1), expected, rtol=1e-9, atol=1e-12)
    some = jacobian_product(model, X, v, [1, 0])
    torch.testing.assert_close(some, torch.einsum("bki,bi->bk", full, v.flatten(1))[:, [1, 0]], rtol=1e-9, atol=1e-12)


def test_products_reject_vectors_of_the_wrong_shape() -> None:
    model = zoo()["mlp"]
    with pytest.raises(ShapeError, match="shape of x"):
        jacobian_product(model, X, X[:2])
    with pytest.raises(ShapeError, match="shape of the outputs"):
        transposed_product(model, X, torch.ones(6, 3))
    with pytest.raises(UnsupportedOperation, match="detach"):
        transposed_product(lambda x: x * x.detach(), X, X)


@pytest.mark.parametrize("name", NAMES)
def test_the_spectrum_reconstructs_the_jacobian(name: str) -> None:
    model = zoo()[name]
    result, full = jacobian_spectrum(model, X, chunk=4), reference(model, X)
    rebuilt = torch.einsum("br,brk,bri->bki", result.values, result.left.flatten(2), result.right.flatten(2))
    torch.testing.assert_close(rebuilt, full.reshape(6, -1, 36), rtol=1e-9, atol=1e-12)
    assert result.left.shape[2:] == full.shape[1:-3]
    leading = jacobian_spectrum(model, X, count=1)
    torch.testing.assert_close(leading.values, result.values[:, :1])
    moved = jacobian_product(model, X, leading.right[:, 0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, leading.values[:, 0])
    with pytest.raises(ShapeError, match="count is 0"):
        jacobian_spectrum(model, X, count=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_leading_value_of_many_outputs_never_forms_the_jacobian(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 60), nn.Tanh(), nn.Linear(60, 150)).to(dtype)
    x = torch.rand(3, 200, dtype=dtype)
    whole = jacobian_spectrum(model, x)
    with patch.object(_spectrum, "jacobian", side_effect=AssertionError):
        result = jacobian_spectrum(model, x, count=1)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(result.values, whole.values[:, :1], rtol=tolerance, atol=0)
    cosine = (result.right[:, 0] * whole.right[:, 0]).sum(1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-3)
    assert result.left.shape == (3, 1, 150)


@pytest.mark.parametrize(
    "model",
    [lambda x: 0 * x, lambda x: 2 * x, lambda x: x * torch.linspace(0.99, 1, 200)],
    ids=["zero", "equal", "close"],
)
def test_the_spectrum_is_right_if_the_iteration_does_not_converge(model: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(2, 200, dtype=torch.float64)
    result, whole = jacobian_spectrum(model, x, count=1), jacobian_spectrum(model, x)
    torch.testing.assert_close(result.values, whole.values[:, :1])


def test_a_scalar_output_has_one_singular_value() -> None:
    result = jacobian_spectrum(lambda x: (x**2).sum((1, 2, 3)), X)
    torch.testing.assert_close(result.values[:, 0], 2 * X.flatten(1).norm(dim=1))
    assert result.left.shape == (6, 1)


def test_class_means_in_one_streaming_pass() -> None:
    model, labels = zoo()["convolution"], torch.tensor([0, 2, 2, 0, 2, 0])
    batches = [(X[:4], labels[:4]), (X[:0], labels[:0]), (X[4:], labels[4:])]
    result, full = jacobian_class_means(model, iter(batches), classes=3), reference(model, X)
    assert result.counts.tolist() == [3, 0, 3]
    torch.testing.assert_close(result.means[0], full[labels == 0].abs().mean(0))
    torch.testing.assert_close(result.means[2], full[labels == 2].abs().mean(0))
    assert bool(result.means[1].isnan().all())
    assert torch.equal(result.labels, labels)
    torch.testing.assert_close(result.spectral_norms, torch.linalg.matrix_norm(full.flatten(2), 2))
    torch.testing.assert_close(result.frobenius_norms, torch.linalg.matrix_norm(full.flatten(2)))
    with pytest.raises(ShapeError, match="no images"):
        jacobian_class_means(model, [], classes=3)
    with pytest.raises(ShapeError, match="classes is 2"):
        jacobian_class_means(model, batches, classes=2)


def test_class_means_of_float32_neither_overflow_nor_drift() -> None:
    weight = torch.tensor([[3e38, -1e-30], [0.1, 7.0]])
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = weight
    images, labels = torch.zeros(3000, 2), torch.arange(3000) % 2
    means = jacobian_class_means(model, [(images, labels)], classes=2).means
    torch.testing.assert_close(means, weight.abs().expand(2, 2, 2), rtol=1e-7, atol=0)
    model.weight.data = weight[1:].clone()  # small enough for sums in float32
    means = jacobian_class_means(model, [(images, labels)], classes=2).means
    torch.testing.assert_close(means, weight[1:].expand(2, 1, 2), rtol=5e-7, atol=0)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("chunk", [1, 2, 5, None])
def test_class_means_do_not_depend_on_chunks(shape: tuple[int, ...], chunk: int | None) -> None:
    size = torch.Size(shape).numel()
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, size)).double()

    def model(x: Tensor) -> Tensor:
        return layers(x).reshape(len(x), *shape)

    labels = torch.tensor([0, 1, 1, 0, 1, 2])
    result, full = jacobian_class_means(model, [(X, labels)], classes=3, chunk=chunk), reference(model, X)
    for label in range(3):
        torch.testing.assert_close(result.means[label], full[labels == label].abs().mean(0))
    assert torch.equal(result.labels, labels)
    matrices = full.reshape(6, size, 36)
    torch.testing.assert_close(result.spectral_norms, torch.linalg.matrix_norm(matrices, 2))
    torch.testing.assert_close(result.frobenius_norms, torch.linalg.matrix_norm(matrices))


def test_class_means_hold_one_chunk_of_the_jacobian() -> None:
    model = nn.Conv2d(1, 3, 3, bias=False).double()
    chunks: list[tuple[int, ...]] = []

    def norms(rows: Tensor, run: Callable[[Tensor], object] = _class_means._norms) -> object:
        chunks.append(rows.shape)
        return run(rows)

    with patch.object(_class_means, "_norms", norms), patch.object(_plan, "LARGEST_STREAMED", 4 * 48 * 36 * 8):
        jacobian_class_means(model, [(X, torch.zeros(6, dtype=torch.int64))], classes=1)
    assert chunks == [(3, 48, 36)] * 2  # equal ones, of at most four images
