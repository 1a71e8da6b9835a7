"""Everything that pellucid keeps on disk; no other package writes save folders or stores.

- `store`: `Store`, a save folder with its manifest, records, figures and models; `lock` admits one run at a time;
  `ownership` refuses folders with the user's files; `resuming`: whether a run is active, and how to resume it
- `atomic`: writes that either finish or leave the previous file intact
- `reading`, `schema`: guarded reads, and the types of the records' entries
- `weights`: tensors as safetensors; `sharded`: arrays that many processes fill, as Zarr
- `explanations`: read them back
- `recordings`: predictions on training images, recorded in every epoch
- `pictures`: figures as PNG, animations as WebP; `films`: the animations of a run
- `table`: Parquet files
- `tensorboard`: the log of a run; `event_file`: the format of its files; `loggers`: experiment trackers
- `models`: the model that `--model` names, including that of a run
- `sharded/`: stores that many processes fill; `explanations/`: reading them back
- `runs`, `densities`, `fitted`, `jacobians`, `evaluations`, `prototypes`: the public functions that need a folder
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.storage.store import Store

__all__ = ["Store"]

__getattr__, __dir__ = lazy_exports(__name__, {"Store": ".store"})
