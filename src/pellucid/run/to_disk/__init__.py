"""Explain a whole data set into a Zarr store, with any number of processes.

- `place`: this process among those of a job, from torchrun's, SLURM's or Kubernetes' environment variables
- `schedule`: the order in which a process computes shards, independent of files and models
- `request`: the choices of a call; `source`: the images; `embeddings`: embedding and logits in one pass
- `job`: model, images and methods, checked before anything is written, and the layout of the store
- `results`: the rows of one shard; `work`: shard after shard, with progress
- `index`: the table `maps.parquet` next to a finished store
- `explain_to_disk`: the call in Python; `command`: `pellucid explain --dataset`
"""
