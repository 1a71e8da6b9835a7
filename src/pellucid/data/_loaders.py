"""Batches for the training: whole slices of the one tensor that the images are."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import derive_seed, generator
from pellucid.core.types import Images

__all__ = ["batches", "random_shifts", "steps_per_epoch"]


class SlicedImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """An image set that a `DataLoader` takes whole batches from, in one indexing operation each."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images.pixels[index], self.images.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The pixels and labels at `indices`: what a `DataLoader` asks for where a data set offers it."""
        chosen = torch.tensor(indices)
        return self.images.pixels[chosen], self.images.labels[chosen]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches `count` images make: full ones only, or a single smaller one.

    >>> steps_per_epoch(1000, 256), steps_per_epoch(100, 256)
    (3, 1)
    """
    return max(count // batch_size, 1)


def batches(
    images: ImageSet, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1, first_step: int = 0
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """One process's batches of one epoch: (pixels as the set keeps them, labels).

    `batch_size` is the global batch: each of `world_size` processes gets an equal part of it, and all parts of the
    k-th batch together are the same images whatever `world_size` is. The order depends on `seed` and `epoch` alone; the
    global random state is neither read nor changed. An incomplete last batch is left out, unless it is the only one:
    then its images are shared out, some twice where they do not divide evenly. The first `first_step` batches are
    skipped without being put together, so that an interrupted epoch goes on where it stopped.

    Raises `ConfigError` where `batch_size` does not divide by `world_size`.

    >>> images = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
    >>> [len(labels) for _, labels in batches(images, 4, seed=0, epoch=1)]
    [4, 4]
    """
    if batch_size % world_size:
        raise ConfigError(
            f"a batch of {batch_size} images cannot be shared evenly by {world_size} processes; "
            f"use --batch-size {(batch_size // world_size + 1) * world_size}."
        )
    dataset = SlicedImages(images)
    drop_last = len(images) >= batch_size
    sampler: DistributedSampler[Any] = DistributedSampler(
        dataset, world_size, rank, shuffle=True, seed=derive_seed(seed, "batches"), drop_last=drop_last
    )
    sampler.set_epoch(epoch)
    part = batch_size // world_size
    return DataLoader(
        dataset,
        batch_size=part,
        sampler=list(sampler)[first_step * part :],
        drop_last=drop_last,
        collate_fn=_as_it_is,
        generator=generator(seed, "loader", epoch),  # a loader without one draws from the global random state
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def random_shifts(images: Images, share: float, generator: torch.Generator) -> Images:
    """Each image shifted by its own random part of a pixel or more, up to `share` of its height and width.

    What comes in from outside is 0. `generator` is a CPU generator, whatever the device of the images.

    >>> shifted = random_shifts(torch.ones(4, 1, 8, 8), 0.25, torch.Generator().manual_seed(0))
    >>> tuple(shifted.shape), bool(shifted.min() < 1)
    ((4, 1, 8, 8), True)
    """
    if share == 0:
        return images
    shifts = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * share
    # `affine_grid` measures from -1 to 1, so that a share of the size counts twice
    affine = torch.eye(2, 3).repeat(len(images), 1, 1)
    affine[:, :, 2] = 2 * shifts
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)
