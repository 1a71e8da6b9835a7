"""Access to the images of a user's data set, loader or tensors, without loading all of them."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from pellucid.core.errors import DataError
from pellucid.core.files import is_shortage
from pellucid.data._items import separate, split_batch
from pellucid.data._known import known_classes, known_labels
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt

__all__ = ["as_lazy", "of_dataset"]

EXPECTED = "expected a torch Dataset, a DataLoader, or a pair (images, labels) of tensors or arrays"


def as_lazy(data: Any) -> LazyImages:
    """Return the images of `data` for reading on demand.

    `data` is a torch `Dataset` or anything else with `__len__` and `__getitem__`, an `IterableDataset`, a `DataLoader`
    or a pair (images, labels). For a `DataLoader`, the model's input is what the loader yields: its `collate_fn`
    is applied. With a custom batch sampler, a loader is read from beginning to end.

    Raises `DataError` for anything else, and for numbers of images and labels that differ.

    >>> images = as_lazy((torch.zeros(3, 1, 2, 2), torch.tensor([1, 0, 1])))
    >>> images.total, images.labels, [item.label for item in images.read([2])]
    (3, tensor([1, 0, 1]), [tensor(1)])
    """
    if isinstance(data, LazyImages):
        return data
    if isinstance(data, OpenData):
        return data.test
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if _is_pair(data):
        return _of_pair(*data)
    name = type(data).__name__
    if isinstance(data, IterableDataset) or (hasattr(data, "__iter__") and not hasattr(data, "__getitem__")):
        return LazyImages(name, name, None, lambda _: _numbered(data, name), classes=known_classes(data))
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(f"got data of type {name}; {EXPECTED}.")
    return of_dataset(data)


def _numbered(dataset: Any, name: str) -> Iterator[Item]:
    """Yield the items of a stream."""
    for index, item in enumerate(dataset):
        place = f"item {index} of {name}"
        yield Item(place, *separate(item, place))


def of_dataset(dataset: Any, name: str | None = None) -> LazyImages:
    """Return the images of a map-style data set."""
    name = name or type(dataset).__name__
    total = _length(dataset, name)

    def read(indices: Sequence[int] | None) -> Iterator[Item]:
        # by index: without `__iter__`, a loop over the data set ends at an IndexError, which not all of them raise
        for index in range(total) if indices is None else indices:
            place = f"item {index} of {name}"
            pair = attempt(lambda index=index, place=place: separate(_item(dataset, index, place), place))
            image, label = (pair, None) if isinstance(pair, DataError) else pair
            yield Item(place, image, label, str(index))

    return LazyImages(name, _title(dataset), total, read, known_labels(dataset), known_classes(dataset))


def _title(dataset: Any) -> str:
    """Return a display name: that of the class, unless it only holds or selects images."""
    if isinstance(dataset, Subset):
        return _title(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        titles = {_title(part) for part in dataset.datasets}
        return titles.pop() if len(titles) == 1 else "Images"
    is_container = isinstance(dataset, TensorDataset | list | tuple) or hasattr(dataset, "column_names")
    return "Images" if is_container else type(dataset).__name__


def _length(dataset: Any, name: str) -> int:
    try:
        return len(dataset)
    except (Exception, SystemExit) as error:  # len() itself refuses negative and fractional lengths
        raise DataError(f"the length of {name} cannot be read: {type(error).__name__}: {error}.") from error


def _item(dataset: Any, index: int, place: str) -> Any:
    try:
        return dataset[index]
    except (Exception, SystemExit) as error:
        if is_shortage(error):
            raise
        raise DataError(f"{place} cannot be read: {type(error).__name__}: {error}.") from error


def _is_pair(data: Any) -> bool:
    """Return True for (images, labels), as opposed to a list of two items."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    images, labels = data
    is_array = isinstance(images, torch.Tensor | np.ndarray)
    return (is_array and images.ndim >= 3 and not isinstance(labels, int)) or (
        isinstance(images, list) and not isinstance(labels, int) and len(images) > 0 and not _is_pair_item(images)
    )


def _is_pair_item(item: list[Any]) -> bool:
    """Return True for [image, label], an item of a list of two."""
    return len(item) == 2 and isinstance(item[1], int)


def _of_pair(images: Any, labels: Any) -> LazyImages:
    name = "arrays" if isinstance(images, np.ndarray) else "tensors" if isinstance(images, torch.Tensor) else "images"
    if not hasattr(labels, "__len__") or len(labels) != len(images):
        count = f"{len(labels)} labels" if hasattr(labels, "__len__") else f"labels of type {type(labels).__name__}"
        raise DataError(f"got {len(images)} images but {count}; give one class index per image.")

    def read(indices: Sequence[int] | None) -> Iterator[Item]:
        for index in range(len(images)) if indices is None else indices:
            yield Item(f"image {index}", images[index], labels[index], str(index))

    return LazyImages(name, "Images", len(images), read, known_labels([(None, label) for label in labels]))


def _of_loader(loader: DataLoader[Any]) -> LazyImages:
    dataset = loader.dataset
    name = type(dataset).__name__
    indices = None if isinstance(dataset, IterableDataset) else _indices(loader)
    if indices is None:
        return LazyImages(name, name, None, lambda _: _batches(loader, name), classes=known_classes(dataset))
    images = of_dataset(dataset)
    if loader.collate_fn in (default_collate, default_convert):
        read = images.items
    else:

        def read(chosen: Sequence[int] | None) -> Iterator[Item]:
            return _collated(loader, range(images.total or 0) if chosen is None else chosen, name)

    lazy = LazyImages(name, images.title, images.total, read, images.labels, images.classes)
    return lazy if isinstance(indices, range) else _subset(lazy, indices)


def _indices(loader: DataLoader[Any]) -> Sequence[int] | None:
    """Return the indices of the data set that a loader yields in one epoch, in any order; None if unknown."""
    sampler: Any = loader.sampler
    if type(loader.batch_sampler) not in (BatchSampler, type(None)):
        return None
    if type(sampler) is SubsetRandomSampler:
        return [int(index) for index in sampler.indices]
    is_full_pass = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    # without automatic batching, an item may be a whole batch
    return range(len(sampler)) if is_full_pass and loader.batch_size is not None else None


def _subset(images: LazyImages, indices: Sequence[int]) -> LazyImages:
    """Return the images at `indices`."""
    labels = None if images.labels is None else images.labels[torch.tensor(indices)]

    def read(chosen: Sequence[int] | None) -> Iterator[Item]:
        return images.items(indices if chosen is None else [indices[index] for index in chosen])

    return LazyImages(images.name, images.title, len(indices), read, labels, images.classes)


def _collated(loader: DataLoader[Any], indices: Sequence[int], name: str) -> Iterator[Item]:
    """Yield the images at `indices` after the loader's own collate function, in batches of its size."""
    size = loader.batch_size or 1
    for start in range(0, len(indices), size):
        part = list(indices[start : start + size])
        place = f"the batch of items {part[0]} to {part[-1]} of {name}"
        try:
            whole = getattr(loader.dataset, "__getitems__", None)
            items = whole(part) if callable(whole) else [loader.dataset[index] for index in part]
            batch = loader.collate_fn(items)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (becomes the reason why the item is unreadable)
            if len(part) > 1:  # one by one, to find the item
                for index in part:
                    yield from _collated(loader, [index], name)
                continue
            place = f"item {part[0]} of {name}"
            reason = DataError(f"{place} cannot be read: {type(error).__name__}: {error}.")
            yield Item(place, reason, None, str(part[0]))
            continue
        for index, item in zip(part, split_batch(batch, place), strict=True):
            yield item._replace(key=str(index))


def _batches(loader: DataLoader[Any], name: str) -> Iterator[Item]:
    """Yield the images of one pass through a loader, which is left unchanged."""
    # a copy: workers that outlive the pass would change the random numbers of the next one
    loader = copy.copy(loader)
    loader._iterator = None
    generators = [getattr(owner, "generator", None) for owner in (loader, loader.sampler, loader.batch_sampler)]
    states = [(one, one.get_state()) for one in generators if isinstance(one, torch.Generator)]
    try:
        for number, batch in enumerate(loader):
            yield from split_batch(batch, f"batch {number} of {name}")
    finally:
        for generator, state in states:
            generator.set_state(state)
