"""Zarr arrays whose missing chunks are errors. The library would return their fill value."""

import re
from collections.abc import Callable
from typing import Any

from pellucid.core.errors import DataError
from pellucid.storage.explanations.metadata import Header
from pellucid.storage.sharded import Address

__all__ = ["guarded", "guarded_store"]

Damaged = Callable[[str, int, str], DataError]
"""Function that returns the error for a variable, shard and reason."""


def guarded(address: Address, name: str, header: Header, damaged: Damaged) -> Any:
    """Open an array from metadata that has been checked; a chunk without a file raises `damaged`."""
    from zarr import Array
    from zarr.storage import StorePath

    store = guarded_store(address, damaged)
    path = StorePath(store, name if header.version == 3 else "")
    with address.reporting("read"):
        return Array.from_dict(path, dict(header.record))


def guarded_store(address: Address, damaged: Damaged) -> Any:
    """Open an address for the zarr library, so that reading a chunk without a file raises `damaged`."""
    from zarr.storage import WrapperStore

    class Guarded(WrapperStore):  # type: ignore[type-arg]
        """A store that refuses to replace missing chunks by their fill value."""

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            """Return the content of a file. Raises the error of `damaged` for a missing chunk."""
            found = await self._store.get(key, prototype, byte_range)
            if found is None:
                _check(key, damaged)
            return found

        def _with_store(self, store: Any) -> Any:
            return type(self)(store)

        def __reduce__(self) -> Any:
            return guarded_store, (Address(address.text), damaged)

    return Guarded(address.zarr_store(read_only=True))


def _check(key: str, damaged: Damaged) -> None:
    """Raise an error for the key of a chunk; metadata may be missing."""
    chunk = re.fullmatch(r"(?:(.+)/c\.)?(\d+)(?:\.\d+)*", key)
    if chunk is not None:
        raise damaged(chunk[1] or "jacobian", int(chunk[2]), "the file is missing")
