"""Stored explanations as a torch data set."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pellucid.core.errors import DataError

if TYPE_CHECKING:
    from pellucid.storage.explanations.stored import StoredExplanations

__all__ = ["StoredMaps"]


class StoredMaps(Dataset[dict[str, Any]]):
    """A map-style data set: each item is a dictionary of one image's results.

    An item has `index` (position in the store) and, as far as they are stored, `key`, `label` (−1 if unknown),
    `prediction`, `logits` (class,), `relevance` (channel, height, width), or (method, …) for all methods, `embedding`
    and `jacobian`. It can be pickled, and every worker of a `DataLoader` opens the store on its own. A batch is read
    at once, so batches of neighboring images are fastest.
    """

    def __init__(self, stored: "StoredExplanations", method: str | None = None) -> None:
        if method is not None:
            stored.unit(method)  # raises for an unknown method
        self._stored = stored
        self._methods = stored.methods if method is None else (method,)
        self._is_single = method is not None

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return several items, which a `DataLoader` asks for together."""
        stored = self._stored[indices]
        read: dict[str, Any] = {"index": stored.indices}
        for name in ("key", "label", "prediction", "logits", "embedding"):
            if name in stored.variables:
                read[name] = getattr(stored, name if name == "logits" else f"{name}s")
        if self._methods:
            maps = [stored.relevance(method) for method in self._methods]
            read["relevance"] = maps[0] if self._is_single else np.stack(maps, 1)
        if "jacobian" in stored.variables:
            read["jacobian"] = np.asarray(stored.jacobian)
        if len(read) == 1:
            raise DataError(f"{stored.address} holds no results to train on.")
        return [{name: _item(values[number]) for name, values in read.items()} for number in range(len(indices))]


def _item(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    return value if isinstance(value, str) else int(value)
