"""Training batches depend only on seed and epoch, and cover all images."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import shift as scipy_shift

from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import ConfigError
from pellucid.data._loaders import SlicedImages, batches, random_shifts, steps_per_epoch, training_batches


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_shifted_by_whole_pixels_and_filled_with_zeros(dtype) -> None:
    images = torch.randint(1, 256, (300, 2, 9, 12), generator=torch.Generator().manual_seed(0)).to(dtype)
    shifted = random_shifts(images, 0.1, torch.Generator().manual_seed(7))
    assert shifted.dtype == dtype
    found = []
    for image, result in zip(images, shifted, strict=True):
        candidates = {
            (down, right): torch.from_numpy(scipy_shift(image.numpy(), (0, down, right), order=0, prefilter=False))
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        }
        found += [place for place, expected in candidates.items() if torch.equal(result, expected)]
    assert len(found) == 300  # each image is exactly one of the nine candidates
    counts = [found.count(place) for place in set(found)]
    assert len(counts) == 9
    assert min(counts) > 15


def test_the_largest_shift_is_a_share_of_each_side_rounded_to_whole_pixels() -> None:
    images = torch.ones(400, 1, 8, 28)
    shifted = random_shifts(images, 3 / 28, torch.Generator().manual_seed(0))
    assert set(shifted[:, 0].amax(2).sum(1).tolist()) == {7, 8}
    assert set(shifted[:, 0].amax(1).sum(1).tolist()) == {25, 26, 27, 28}
    assert torch.equal(random_shifts(images, 1 / 80, torch.Generator()), images)


def test_a_share_of_zero_does_not_shift() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(random_shifts(images, 0.0, torch.Generator()), images)


def test_training_batches_are_shifted_floats_that_depend_on_the_position_only() -> None:
    pixels = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    images = ImageSet(pixels, torch.arange(40))
    plain = DataSplits("own", "own", "Own", images, images, images, ("a", "b"), "")
    moved = replace(plain, shift_share=1 / 8)

    def epoch(data: DataSplits, first_step: int) -> list[torch.Tensor]:
        return [batch for batch, _ in training_batches(data, 8, 0, 0, 1, 1, first_step)]

    labels = [label for _, label in training_batches(plain, 8, 0, 0, 1, 1, 0)]
    assert all(torch.equal(batch, pixels[label] / 255) for batch, label in zip(epoch(plain, 0), labels, strict=True))
    assert not torch.equal(torch.cat(epoch(moved, 0)), torch.cat(epoch(plain, 0)))
    assert torch.equal(torch.cat(epoch(moved, 0)[2:]), torch.cat(epoch(moved, 2)))
