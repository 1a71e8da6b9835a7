"""Stratified samples are disjoint and exhaustive, and represent every class in proportion."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import DataError
from pellucid.data._splitting import limited, mask_of_test, split_off_validation, stratified

class_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)
quick = settings(deadline=None, max_examples=60)


def numbered(sizes: list[int]) -> ImageSet:
    """Images whose pixel value is their index, which identifies them."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    return ImageSet(torch.arange(len(labels)).float().view(-1, 1, 1, 1), labels)


def numbers(images: ImageSet) -> list[int]:
    return images.pixels.flatten().long().tolist()


def split_off_test(images: ImageSet, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    is_test = mask_of_test(images.labels, generator)
    return images[~is_test], images[is_test]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@quick
@given(class_sizes, st.floats(0, 1), st.integers(0, 3))
def test_every_class_is_sampled_in_proportion(sizes: list[int], share: float, seed: int) -> None:
    labels = numbered(sizes).labels
    count = round(share * len(labels))
    taken = labels[stratified(labels, count, seeded(seed))].bincount(minlength=len(sizes)).tolist()
    assert sum(taken) == count
    shares = [(number / size, 0.5 / size) for number, size in zip(taken, sizes, strict=True) if size]
    for one, one_half in shares:
        for other, other_half in shares:
            assert abs(one - other) <= one_half + other_half + 1e-9


@quick
@given(class_sizes, st.integers(0, 100), st.integers(0, 100))
def test_a_larger_sample_contains_a_smaller_one(sizes: list[int], one: int, other: int) -> None:
    labels = numbered(sizes).labels
    small, large = (stratified(labels, count, seeded()) for count in sorted((one, other)))
    assert bool((small & ~large).any()) is False


@quick
@given(class_sizes, st.integers(0, 300), st.integers(0, 2))
def test_spared_images_are_never_selected(sizes: list[int], count: int, spared: int) -> None:
    labels = numbered(sizes).labels
    taken = stratified(labels, count, seeded(), spared=spared)
    remaining = labels[~taken].bincount(minlength=len(sizes)).tolist()
    assert all(number >= min(size, spared) for number, size in zip(remaining, sizes, strict=True))
    assert int(taken.sum()) == min(count, sum(max(size - spared, 0) for size in sizes))


@quick
@given(class_sizes, st.integers(1, 300))
def test_a_limit_keeps_as_many_classes_as_possible(sizes: list[int], limit: int) -> None:
    images = numbered(sizes)
    kept = limited(images, limit, seeded())
    assert len(kept) == min(limit, len(images))
    assert len(kept.labels.unique()) == min(limit, sum(size > 0 for size in sizes))
    assert numbers(kept) == sorted(numbers(kept))  # in the order of the data set


@quick
@given(class_sizes.filter(lambda sizes: max(sizes) > 1), st.sampled_from([split_off_test, split_off_validation]))
def test_splits_are_disjoint_and_exhaustive(sizes: list[int], split) -> None:
    images = numbered(sizes)
    rest, apart = split(images, seeded())
    assert sorted(numbers(rest) + numbers(apart)) == numbers(images)
    assert len(apart) >= 1
    assert set(rest.labels.tolist()) == set(images.labels.tolist())
    assert torch.equal(images.labels[numbers(rest)], rest.labels)


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (23, 1), (24, 2), (1200, 100), (60_000, 5000), (99_996, 5000)])
def test_validation_is_a_twelfth_up_to_5000(count: int, expected: int) -> None:
    rest, validation = split_off_validation(numbered([count]), seeded())
    assert (len(rest), len(validation)) == (count - expected, expected)


def test_a_sample_depends_on_its_seed() -> None:
    labels = numbered([50, 50]).labels
    assert torch.equal(stratified(labels, 20, seeded(3)), stratified(labels, 20, seeded(3)))
    assert not torch.equal(stratified(labels, 20, seeded(3)), stratified(labels, 20, seeded(4)))


@pytest.mark.parametrize(
    ("split", "fix"), [(split_off_test, "separate test set"), (split_off_validation, "--limit-train")]
)
def test_classes_of_one_image_cannot_be_split(split, fix: str) -> None:
    with pytest.raises(DataError, match=f"no class has more than one.*{fix}"):
        split(numbered([1, 1, 1]), seeded())
