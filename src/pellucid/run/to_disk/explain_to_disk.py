"""`pellucid.explain_to_disk`: explain a whole data set into a Zarr store."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pellucid.attribution import Analyzer
from pellucid.core.preprocessing import Preprocessing
from pellucid.engine.inputs import check_is_model
from pellucid.engine.model import unwrap
from pellucid.engine.wrapping import Network
from pellucid.models._adapted import adapted
from pellucid.models._preprocessing import choose_preprocessing, find_classes
from pellucid.run.given import channels_of
from pellucid.run.observation import check_precision
from pellucid.run.to_disk.index import check_index_place, write_index
from pellucid.run.to_disk.job import Job, prepare
from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.request import Request
from pellucid.run.to_disk.source import Source, described_steps
from pellucid.run.to_disk.work import finish_shards
from pellucid.storage.explanations import StoredExplanations, open_explanations
from pellucid.storage.sharded import Address, ShardedStore

__all__ = ["existing_settings", "explain_to_disk", "prepared", "threads_of"]

LARGEST_SMALL_SIDE = 64
"""Images up to this size are explained with one thread: more threads cost more than they gain."""


def explain_to_disk(
    model: Network,
    data: Any,
    out: "str | os.PathLike[str]",
    *,
    methods: str | Analyzer | Sequence[str | Analyzer] | None = None,
    target: int | str = "predicted",
    jacobian: bool = False,
    embeddings: bool | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    preprocess: Any = None,
    dtype: str = "float32",
    limit: int | None = None,
    shard: int | None = None,
    threads: int | None = None,
) -> StoredExplanations:
    """Explain every image of a data set, and store the results as Zarr arrays (format 3).

    Any number of processes, on any number of machines, can make the same call: each begins with its own part of the
    data and then helps the others. The part follows from the environment variables that torchrun, SLURM or Kubernetes
    set; without them, a process begins with all of the data. A call after an interruption computes only what is
    missing, with any number of processes, and the store is then equal, bit for bit, to one that was never interrupted.
    See `docs/scale.md`.

    Args:
        model: as for `explain`; it stays on its device, unchanged.
        data: a data set with a length and items by index, a `DataLoader`, or a pair (images, labels), as for `inspect`.
            Labels may be missing (None or −1). An image that cannot be read is recorded with its key and the reason.
        out: a folder, or any address of fsspec, such as `s3://bucket/maps.zarr`; new, or begun by the same call.
        methods: names of attribution methods, or analyzers, whose options and fitted state are used. Default: the first
            of `explain`'s default methods that applies, or none with `jacobian=True`. An empty list stores logits and
            embeddings only.
        target: the explained class: "predicted", "label" (the true class), "all", a class name or an index.
        jacobian: also store the derivative of every logit with respect to every pixel.
        embeddings: also store the input of the last linear layer. Default: only if nothing else is computed.
        classes: class names by index. Default: those of the model's library or of the data.
        mean: with `std`, the normalization of the model's input, as for `explain`.
        std: see `mean`.
        preprocess: preprocessing of files and PIL images, as for `explain`.
        dtype: type of the stored maps, "float32" or "float16"; the latter stores the rounding error of each map.
        limit: number of images to explain, evenly spaced over the data set. Default: all.
        shard: images per shard. A shard is computed and written as a whole; an interruption loses the shards in
            progress. Default: about 32 MB.
        threads: CPU threads of this process. Default: those of the store that is continued; in a new one, all cores,
            but one for images of at most 64×64 pixels or if there are several processes.

    Returns the store, opened for reading; see `open_explanations`.

    Raises `SaveError` if the store cannot be written or was begun with other settings, `UnsupportedOperation` and
    `ConfigError` for methods that do not apply, and `DataError`, `ShapeError` and `ModelError` for data and models that
    cannot be used. All of these come before anything is written, except for a full disk.

    >>> from tempfile import mkdtemp
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> data = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
    >>> stored = explain_to_disk(model, data, mkdtemp(), methods=["gradient", "lrp.epsilon"])
    >>> len(stored), stored.methods
    (20, ('gradient', 'lrp.epsilon'))
    """
    wanted = () if methods == "none" else methods
    request = Request(wanted, target, jacobian, embeddings, None, dtype, limit, shard, threads)
    address, place = Address.of(out), Place.found()
    steps = {"mean": mean, "std": std, "preprocess": preprocess}
    check_index_place(address)
    with prepared(model, data, address, request, place, classes=classes, steps=steps) as job:
        store = ShardedStore.join(address, job.layout)
        finish_shards(store, job, place)
    if place.rank == 0:
        write_index(address)
    return open_explanations(address)


@contextmanager
def prepared(
    model: Network,
    data: Any,
    address: Address,
    request: Request,
    place: Place,
    *,
    classes: Sequence[str] | None,
    steps: dict[str, Any],
    known: Any = None,
) -> Iterator[Job]:
    """Check model, data and methods, and yield the job, with the threads that it uses; writes nothing."""
    inside = unwrap(model)
    check_is_model(inside)
    check_precision(inside)
    chosen = choose_preprocessing(inside, getattr(known, "preprocessing", None), **steps)
    undone = chosen if isinstance(chosen, Preprocessing) else Preprocessing()
    names = classes or getattr(known, "classes", None) or find_classes(inside)
    channels = channels_of(inside, chosen)
    source = Source.of(data, chosen, names, channels if channels in (1, 3) else None, request.limit)
    existing = existing_settings(address)
    about = {
        "model": type(inside).__name__ if known is None else known.name.rsplit("/", 1)[-1],
        "preprocessing": described_steps(chosen),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of(request, existing, place, source.image_shape))
    try:
        yield prepare(source, adapted(inside, undone), request, source.matched.names, about, existing)
    finally:
        torch.set_num_threads(before)


def existing_settings(address: Address) -> dict[str, Any] | None:
    """Return the settings of a store that was begun; None if there is none. Raises `SaveError` for other files."""
    attributes = ShardedStore.attributes_at(address)
    return None if attributes is None else attributes.get("settings", {})


def threads_of(
    request: Request, existing: dict[str, Any] | None, place: Place, image_shape: tuple[int, int, int]
) -> int:
    """Return the number of CPU threads, which affects the last bits of the results."""
    if request.threads is not None:
        return request.threads
    if existing and isinstance(existing.get("threads"), int):
        return int(existing["threads"])
    is_small = max(image_shape[1:]) <= LARGEST_SMALL_SIDE
    return 1 if place.size > 1 or is_small else os.cpu_count() or 1
