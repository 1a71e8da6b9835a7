"""The size of a job, which callers that loop over batches announce."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import pellucid
from pellucid.jacobians import _class_means, _spectrum
from pellucid.jacobians._native.job import expected_images, images_expected, images_in
from pellucid.storage import jacobians

X, Y = torch.rand(10, 3), torch.arange(10) % 2
DATA = TensorDataset(X, Y)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(DATA)


@pytest.mark.parametrize(
    ("loader", "count"),
    [
        (DataLoader(DATA, batch_size=4), 10),
        (DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler([1, 2, 3])), 3),
        (DataLoader(Stream(), batch_size=4), None),
        ([(X, Y), (X[:3], Y[:3])], 13),
        ([X, X[:1]], 11),
        ((batch for batch in [(X, Y)]), None),
        ([(torch.tensor(1.0), Y)], None),
        ([()], None),
        ([], 0),
    ],
    ids=["loader", "sampler", "stream", "pairs", "batches", "generator", "a number", "an empty batch", "nothing"],
)
def test_number_of_images_in_a_loader(loader, count) -> None:
    assert images_in(loader) == count


@pytest.fixture
def announced(monkeypatch) -> list[int | None]:
    """What each call of `jacobian` learns about the size of its job."""
    seen: list[int | None] = []

    def announcing(run: Callable[..., object]) -> Callable[..., object]:
        def compute(*given, **options):
            seen.append(images_expected())
            return run(*given, **options)

        return compute

    for module, name in ((_class_means, "jacobian_by_chunk"), (_spectrum, "jacobian"), (jacobians, "jacobian_report")):
        monkeypatch.setattr(module, name, announcing(getattr(module, name)))
    return seen


def test_callers_announce_all_of_their_images(announced, tmp_path, monkeypatch) -> None:
    model = nn.Linear(3, 2)
    pellucid.jacobian_class_means(model, DataLoader(DATA, batch_size=4), 2)
    assert announced == [10] * 3
    announced.clear()
    with expected_images(500):  # of several jobs, or of a generator
        pellucid.jacobian_class_means(model, (pair for pair in [(X, Y)]), 2)
    assert announced == [500]
    announced.clear()
    monkeypatch.setattr(_spectrum, "LARGEST_ENTRIES", 4 * 6)
    pellucid.jacobian_spectrum(model, X)
    assert announced == [10] * 3
    announced.clear()
    pellucid.jacobian_to_disk(model, DataLoader(DATA, batch_size=4), tmp_path / "maps", chunk=4)
    assert announced == [10, 10, 10, 10]
    announced.clear()
    pellucid.jacobian_to_disk(model, DataLoader(DATA, batch_size=4), tmp_path / "maps", chunk=4)
    # only finds out the shape, so that resuming a finished store never compiles anything
    assert announced == [None]
    assert images_expected() is None


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e25])
@pytest.mark.parametrize("shape", [(5, 10, 3000), (5, 40, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_norms_are_as_exact_as_the_jacobian(scale, shape, dtype) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(scale).to(dtype)
    spectral, frobenius = _class_means._norms(rows)
    torch.testing.assert_close(spectral, torch.linalg.matrix_norm(rows.double(), 2), rtol=3e-7, atol=0)
    torch.testing.assert_close(frobenius, torch.linalg.matrix_norm(rows.double()), rtol=3e-7, atol=0)
