"""Image data sets: one module each, discovered by the registry.

- `_source`: `Request` and `RawData`, the argument and the result of the functions in `DATASETS`
- every other file without an underscore: the data set of that name
- `_load`: loads a data set by name, with checks, limits and splits; `_spec` parses the name, `_function` calls a user's
  function
- `_open`: the same data without reading images, which are read on demand (`_lazy`) or all at once (`_read_all`);
  `_columns` finds images and labels in tables, `_arrow` reads their files
- `_sample`: a stratified sample of any of these, or of a user's data set, loader or tensors (`_user_data`), never
  loaded whole; `_known` finds labels and class names, `_matching` compares them with a model's, `_reservoir` samples
  streams
- `_each`: reads images one by one, where an unreadable one is a result; `_fingerprint` identifies a data set
- `_shards` finds files by pattern and split, `_paths` lists those of a folder; `_tar` and `_samples` index shards;
  `_table` holds tables; `_npy`, `_inflate` and `_image_array` read arrays
- `_items`, `_collector`: convert images of any kind to one tensor; `_materialise` reads a map-style data set
- `_loaders`: shuffled batches of a training epoch
- `_download`, `_web`: verified downloads from mirrors; `_pictures`, `_resize`: decode and scale pictures
- `_metadata`: a user's table with one row per test image
- `_splitting`: stratified subsets; `_ground_truth`: what the data sets with known ground truth share

>>> DATASETS.names()[:2]
['confound', 'confound.control']
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.core.contracts import DataSplits, ImageSet
    from pellucid.data._load import load_data
    from pellucid.data._source import RawData, Request, Source

__all__ = ["DATASETS", "DataSplits", "ImageSet", "RawData", "Request", "Source", "load_data"]

DATASETS: "Registry[Source]" = Registry("data set", __name__, "pellucid.datasets")
"""All data sets that `--dataset` knows by name."""

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DataSplits": "pellucid.core.contracts",
        "ImageSet": "pellucid.core.contracts",
        "RawData": "._source",
        "Request": "._source",
        "Source": "._source",
        "load_data": "._load",
    },
)
