"""Compute the mean absolute relevance per class of a store, in parallel: `python examples/relevance_by_class.py STORE`.

STORE is a folder or an address such as s3://bucket/maps.zarr, written by `pellucid explain --dataset`.
"""

import sys

import xarray

stored = xarray.open_zarr(sys.argv[1])  # reads no map yet; every shard becomes a task of Dask
strength = abs(stored["relevance"]).mean(["channel", "height", "width"])
# images without results are NaN and are left out
by_class = strength.groupby(stored["label"].compute()).mean("image").compute()
print(by_class.to_pandas().to_string())
