"""Arrays on disk or in object storage that many processes fill shard by shard, as a Zarr group (format 3).

- `address`: a folder or an fsspec address, with the few file operations that a store needs
- `layout`: the variables of a store, and its metadata
- `store`: creates or joins a store, writes whole shards, and knows which are complete
"""

from pellucid.storage.sharded.address import Address
from pellucid.storage.sharded.layout import Layout, Variable
from pellucid.storage.sharded.store import ShardedStore

__all__ = ["Address", "Layout", "ShardedStore", "Variable"]
