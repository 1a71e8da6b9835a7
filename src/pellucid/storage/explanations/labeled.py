"""Stored explanations as an xarray data set."""

import warnings
from typing import Any

import numpy as np

from pellucid.core.errors import ConfigError
from pellucid.core.importing import import_optional
from pellucid.storage.explanations.arrays import Rows, StoredArrays
from pellucid.storage.explanations.guarded import guarded_store
from pellucid.storage.sharded.layout import MARKS

__all__ = ["labeled"]


def labeled(arrays: StoredArrays, rows: Rows) -> Any:
    """Return rows of a store as a lazy `xarray.Dataset`, whose missing chunks are errors.

    Raises `ConfigError` without xarray, and for a store of the older format.
    """
    xarray = import_optional("xarray", "to_xarray")
    if MARKS not in arrays.metadata.headers:
        raise ConfigError(
            f"{arrays.address} holds an array of Zarr format 2, without names of its axes; use `.jacobian` instead."
        )
    store = guarded_store(arrays.address, arrays.damaged)
    with arrays.address.reporting("read"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        found = xarray.open_zarr(store, chunks=None)
    found = found.drop_vars(MARKS)
    # choosing all images would hide the shards from Dask
    is_whole = len(rows) == arrays.metadata.images
    return found if is_whole else found.isel(image=np.asarray(rows, np.int64))
