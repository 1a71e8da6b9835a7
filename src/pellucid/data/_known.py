"""Labels and class names that are available without reading images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from pellucid.data._items import LABEL_KEYS, class_index

__all__ = ["known_classes", "known_labels"]

ATTRIBUTES = ("targets", "labels", "_labels", "_targets")
"""Attributes with one label per image, in torchvision's data sets and in many others."""


def known_labels(dataset: Any) -> torch.Tensor | None:
    """Return one integer per image, (image,), without reading images; None if they are unavailable.

    Found in attributes such as `targets`, `samples` and `tensors`, in the label column of a table, and through
    `Subset` and `ConcatDataset`. They only serve to stratify a sample: a transform may change the label with which an
    image is finally read.

    >>> known_labels(TensorDataset(torch.zeros(3, 1, 2, 2), torch.tensor([1, 0, 1])))
    tensor([1, 0, 1])
    """
    labels = _labels(dataset)
    return labels if labels is not None and labels.shape == (len(dataset),) else None


def _labels(dataset: Any) -> torch.Tensor | None:
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])
    if isinstance(dataset, TensorDataset):
        return _integers(dataset.tensors[-1]) if len(dataset.tensors) == 2 else None
    if isinstance(dataset, list | tuple):
        return _integers([_label_in(item) for item in dataset])
    column = _label_column(dataset)
    if column is not None:
        return _integers(column)
    for name in ATTRIBUTES:
        labels = _integers(getattr(dataset, name, None))
        if labels is not None and len(labels) == len(dataset):
            return labels
    for name in ("samples", "imgs", "_samples"):
        pairs = getattr(dataset, name, None)
        if isinstance(pairs, list | tuple) and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return _integers([pair[1] for pair in pairs])
    return None


def _label_in(item: Any) -> Any:
    """Return the label of an item that is in memory; None if it has none."""
    if isinstance(item, Mapping):
        return next((item[key] for key in LABEL_KEYS if key in item), None)
    return item[1] if isinstance(item, tuple | list) and len(item) == 2 else None


def _integers(values: Any) -> torch.Tensor | None:
    """Return a sequence of integers as an int64 tensor; None for anything else."""
    if isinstance(values, torch.Tensor | np.ndarray):
        array = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
        return torch.from_numpy(array.astype(np.int64)) if array.ndim == 1 and array.dtype.kind in "iu" else None
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    numbers = [class_index(value) for value in values]
    return None if None in numbers else torch.tensor(numbers, dtype=torch.int64)


def _label_column(dataset: Any) -> Any:
    """Return the values of the label column of a Hugging Face data set, which is a table; None for others."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping) or not hasattr(dataset, "column_names"):
        return None
    name = next((key for key in LABEL_KEYS if key in features), None)
    # a transform may rename or drop columns
    return None if name is None else dataset.with_format("numpy", columns=[name])[name][:]


def known_classes(dataset: Any) -> tuple[str, ...] | None:
    """Return the class names of a data set; None if they are unavailable.

    Found in the attribute `classes`, in the features of a Hugging Face data set, and through `Subset` and
    `ConcatDataset` (if all parts agree). A `target_transform` may change the labels, so the names are then unknown.
    """
    if isinstance(dataset, Subset):
        return known_classes(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = {known_classes(part) for part in dataset.datasets}
        return parts.pop() if len(parts) == 1 else None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        key = next((key for key in LABEL_KEYS if key in features), None)
        names = getattr(features[key], "names", None) if key is not None else None
    else:
        names = getattr(dataset, "classes", None)
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return None
    # ImageNet has several names for each class
    first = [name[0] if isinstance(name, tuple | list) and name else name for name in names]
    return tuple(map(str, first)) if all(isinstance(name, str | int) for name in first) else None
