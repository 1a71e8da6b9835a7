"""The table `maps.parquet` beside a finished store."""

from pellucid.storage.sharded import Address


def write_index(address: Address) -> str:
    return ""
