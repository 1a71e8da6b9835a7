"""Training batches depend only on seed and epoch, and cover all images."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import shift as scipy_shift

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError
from pellucid.data._loaders import SlicedImages, batches, random_shifts, steps_per_epoch


def numbered(count: int) -> ImageSet:
    """Images whose pixel values and labels are their index."""
    numbers = torch.arange(count)
    return ImageSet(numbers.to(torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), numbers)


def drawn(count: int, batch_size: int, **options: int) -> list[list[int]]:
    """Return the labels of each batch, after checking that they match the pixels."""
    drawn_labels = []
    for pixels, labels in batches(numbered(count), batch_size, **{"seed": 0, "epoch": 0} | options):
        assert torch.equal(pixels, labels.to(torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
        drawn_labels.append(labels.tolist())
    return drawn_labels


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.sampled_from([4, 8, 20]), st.sampled_from([2, 4]))
def test_all_ranks_together_draw_the_same_batches_as_one_process(count: int, batch_size: int, world_size: int) -> None:
    alone = drawn(count, batch_size)
    ranks = [drawn(count, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len(alone) == steps_per_epoch(count, batch_size)
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert set().union(*parts) == set(batch)
        assert len({len(part) for part in parts}) == 1
        if count >= batch_size:
            assert sorted(chain(*parts)) == sorted(batch)
    assert all(len(rank) == len(alone) for rank in ranks)


def test_an_epoch_contains_each_image_once() -> None:
    assert sorted(chain(*drawn(40, 8))) == list(range(40))
    assert [len(batch) for batch in drawn(43, 8)] == [8] * 5
    assert [len(batch) for batch in drawn(5, 8)] == [5]


def test_the_order_depends_on_seed_and_epoch() -> None:
    assert drawn(40, 8, seed=1, epoch=2) == drawn(40, 8, seed=1, epoch=2)
    assert len({str(drawn(40, 8, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("first_step", [0, 2, 5])
def test_an_epoch_resumes_where_it_stopped(first_step: int, world_size: int) -> None:
    whole = drawn(43, 8, epoch=3, world_size=world_size)
    assert drawn(43, 8, epoch=3, world_size=world_size, first_step=first_step) == whole[first_step:]


def test_the_global_random_state_is_unchanged() -> None:
    before = torch.get_rng_state()
    drawn(10, 4)
    random_shifts(torch.ones(2, 1, 4, 4), 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_size_not_divisible_by_the_world_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="use --batch-size 258"):
        batches(numbered(10), 256, seed=0, epoch=0, world_size=3)


def test_single_images_can_be_indexed() -> None:
    pixels, label = SlicedImages(numbered(5))[3]
    assert (pixels.tolist(), int(label)) == ([[[3, 3], [3, 3]]], 3)


def test_batches_keep_the_dtype_uint8() -> None:
    images = ImageSet(torch.zeros(4, 3, 5, 6, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    [(pixels, labels)] = batches(images, 4, seed=0, epoch=0)
    assert (pixels.dtype, tuple(pixels.shape), labels.dtype) == (torch.uint8, (4, 3, 5, 6), torch.int64)


def test_random_shifts_agree_with_scipy() -> None:
    images = torch.rand(5, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    shifted = random_shifts(images, 0.25, torch.Generator().manual_seed(7))
    shares = (torch.rand(5, 2, generator=torch.Generator().manual_seed(7)) * 2 - 1) * 0.25
    for image, result, (right, down) in zip(images, shifted, shares.tolist(), strict=True):
        for before, after in zip(image, result, strict=True):
            expected = scipy_shift(before.numpy(), (-down * 9, -right * 12), order=1, mode="grid-constant", cval=0)
            assert torch.allclose(after, torch.from_numpy(expected), atol=1e-5)


def test_shifts_respect_the_value_range_and_the_largest_shift() -> None:
    shifted = random_shifts(torch.ones(200, 1, 20, 20), 0.1, torch.Generator().manual_seed(0))
    assert shifted.min() >= 0
    assert shifted.max() <= 1
    assert torch.allclose(shifted[:, :, 2:-2, 2:-2], torch.ones(()))  # at most two pixels are shifted in
    assert (shifted.flatten(1).min(1).values < 0.999).all()
    assert len({str(image.sum()) for image in shifted}) > 100  # each image has its own shift


def test_a_share_of_zero_does_not_shift() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(random_shifts(images, 0.0, torch.Generator()), images)
