"""Training batches, indexed directly from the tensor that holds all images."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pellucid.core.contracts import DataSplits, ImageSet, to_floats
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import derive_seed, generator
from pellucid.core.types import Pixels

__all__ = ["batch_order", "batches", "random_shifts", "steps_per_epoch", "training_batches"]


class SlicedImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set that returns a whole batch in one indexing operation, instead of collating single images."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images.pixels[index], self.images.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pixels and labels at `indices`; `DataLoader` prefers this method over `__getitem__`."""
        chosen = torch.tensor(indices)
        return self.images.pixels[chosen], self.images.labels[chosen]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches that `count` images make: full batches only, or a single smaller one.

    >>> steps_per_epoch(1000, 256), steps_per_epoch(100, 256)
    (3, 1)
    """
    return max(count // batch_size, 1)


def batches(
    images: ImageSet, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1, first_step: int = 0
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Return one process's batches of one epoch: (pixels as stored in the set, labels).

    `batch_size` is the global batch size. Each of the `world_size` processes gets an equal part of every batch, and the
    images of the k-th global batch do not depend on `world_size`. The order depends only on `seed` and `epoch`; the
    global random state is neither read nor changed. An incomplete last batch is dropped, unless it is the only one:
    then its images are divided among the processes, with some repeated if they do not divide evenly. The first
    `first_step` batches are skipped without loading them, so that an interrupted epoch can resume where it stopped.

    Raises `ConfigError` if `batch_size` is not divisible by `world_size`.

    >>> images = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
    >>> [len(labels) for _, labels in batches(images, 4, seed=0, epoch=1)]
    [4, 4]
    """
    if batch_size % world_size:
        raise ConfigError(
            f"a batch of {batch_size} images cannot be divided evenly among {world_size} processes; "
            f"use --batch-size {(batch_size // world_size + 1) * world_size}."
        )
    dataset = SlicedImages(images)
    part = batch_size // world_size
    return DataLoader(
        dataset,
        batch_size=part,
        # skipped by index: no image of the finished steps is loaded again
        sampler=_order(len(images), batch_size, seed, epoch, rank, world_size)[first_step * part :],
        # a batch norm cannot train on a last batch of one image
        drop_last=len(images) >= batch_size,
        # `__getitems__` returns complete batches, so there is nothing to collate
        collate_fn=_identity,
        generator=generator(seed, "loader", epoch),  # without one, DataLoader draws from the global random state
    )


def batch_order(count: int, batch_size: int, *, seed: int, epoch: int, world_size: int = 1) -> torch.Tensor:
    """Return the indices (rank, image) of the images in the batches of each process, in their order.

    For the arguments see `batches`; `count` is the number of images.

    >>> batch_order(10, 4, seed=0, epoch=1, world_size=2).shape
    torch.Size([2, 5])
    """
    return torch.tensor([_order(count, batch_size, seed, epoch, rank, world_size) for rank in range(world_size)])


def _order(count: int, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[int]:
    # the sampler shuffles by seed + epoch: without a derived seed, epoch 2 of seed 0 would equal epoch 1 of seed 1
    # also for a single process, so that the order does not depend on the number of processes
    sampler: DistributedSampler[Any] = DistributedSampler(
        range(count),  # type: ignore[arg-type]  # only its length is used
        world_size,
        rank,
        shuffle=True,
        seed=derive_seed(seed, "batches"),
        drop_last=count >= batch_size,
    )
    sampler.set_epoch(epoch)
    return list(sampler)


def training_batches(
    data: DataSplits, batch_size: int, seed: int, rank: int, world_size: int, epoch: int, first_step: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Iterate over one process's training batches of an epoch: float images, shifted if the data set asks for it.

    For the arguments see `batches`.
    """
    source = batches(
        data.train, batch_size, seed=seed, epoch=epoch, rank=rank, world_size=world_size, first_step=first_step
    )
    for step, (pixels, labels) in enumerate(source, start=first_step):
        # seeded by epoch, step and rank, so that a resumed run draws the same shifts as an uninterrupted one
        draws = generator(seed, "shift", epoch, step, rank)
        yield to_floats(random_shifts(pixels, data.shift_share, draws)), labels


def _identity(batch: Any) -> Any:
    return batch


def random_shifts(pixels: Pixels, share: float, generator: torch.Generator) -> Pixels:
    """Shift each image by a random whole number of pixels, at most `share` of its height and width, rounded.

    Pixels shifted in from outside are 0. `generator` must be a CPU generator, for images on any device.

    >>> shifted = random_shifts(torch.ones(4, 1, 8, 8), 0.25, torch.Generator().manual_seed(0))
    >>> shifted.sum((1, 2, 3)).tolist()
    [42.0, 36.0, 56.0, 42.0]
    """
    count, _, height, width = pixels.shape
    down, right = round(share * height), round(share * width)
    if not down and not right:
        return pixels
    # all shifted copies of an image are windows of its padded version; a view, so that only the chosen ones are copied
    windows = F.pad(pixels, (right, right, down, down)).unfold(2, height, 1).unfold(3, width, 1)
    tops = torch.randint(2 * down + 1, (count,), generator=generator)
    lefts = torch.randint(2 * right + 1, (count,), generator=generator)
    return windows[torch.arange(count), :, tops, lefts]
