"""Read explanations back."""

import os

from pellucid.storage.sharded import Address, ShardedStore

__all__ = ["StoredExplanations", "open_explanations"]


class StoredExplanations:
    def __init__(self, store: ShardedStore) -> None:
        self.store = store

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.store.group["method"][:].tolist()) if "method" in self.store.group else ()

    def __len__(self) -> int:
        return self.store.images


def open_explanations(path: "str | os.PathLike[str] | Address") -> StoredExplanations:
    return StoredExplanations(ShardedStore.open(Address.of(path)))
