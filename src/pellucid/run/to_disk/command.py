"""`pellucid explain --dataset`: explain a data set, or print what that would cost."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.config import ExplainConfig
from pellucid.core.errors import PellucidError
from pellucid.core.listing import parse_names
from pellucid.core.terminal import print_error, print_line, silence
from pellucid.data._lazy import LazyImages
from pellucid.data._open import NO_TEST_PART, open_data
from pellucid.data._source import Request as DataRequest
from pellucid.models._class_names import read_class_names
from pellucid.models._library import LoadedModel
from pellucid.models._preprocessing import choose_preprocessing
from pellucid.run.session import choose_device
from pellucid.run.to_disk.explain_to_disk import prepared
from pellucid.run.to_disk.index import check_index_place, write_index
from pellucid.run.to_disk.job import Job
from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.request import Request
from pellucid.run.to_disk.results import rows_of
from pellucid.run.to_disk.source import Source
from pellucid.run.to_disk.work import Finished, duration, finish_shards
from pellucid.storage.models import load_model
from pellucid.storage.sharded import Address, ShardedStore
from pellucid.training.distributed import World

__all__ = ["explain_dataset"]


def explain_dataset(config: ExplainConfig) -> int:
    """Explain a data set and return the exit code. Prints the errors of processes other than the first one itself."""
    place = Place.found()
    if place.rank:
        silence()
    try:
        return _explain(config, place)
    except PellucidError as error:
        if not place.rank:
            raise
        # unlike in training, each process can fail for a different reason, such as a full disk on one machine
        print_error(f"process {place.rank}: {error}")
        return error.exit_code


def _explain(config: ExplainConfig, place: Place) -> int:
    whole, network = config.whole, config.network
    address = Address.of(config.out)
    check_index_place(address)
    names = None if network.class_names is None else read_class_names(network.class_names)
    request = _request(config)
    given: dict[str, Any] = {"image_size": config.image_size, "crop": network.crop}
    images = _opened(config)
    loaded = _loaded(config, images, names, given)
    # the notice of a missing test split is irrelevant here: every image is explained
    remarks = images.remark.replace(NO_TEST_PART, "").removeprefix("; ")
    for notice in filter(None, (loaded.notice, remarks)):
        print_line(f"Notice: {notice}")
    loaded.model.to(choose_device(config.device, World(place.rank, place.size, place.local_rank)))
    mean, std = network.normalization
    steps = {"mean": mean, "std": std, **given}
    with prepared(loaded.model, images, address, request, place, classes=names, steps=steps, known=loaded) as job:
        if whole.dry_run:
            for line in _described(job, address):
                print_line(line)
            return 0
        store = ShardedStore.join(address, job.layout)
        try:
            finished = finish_shards(store, job, place)
        except BaseException:
            with suppress(PellucidError):  # the store may be what has failed
                print_line(_state(store))
            raise
    for line in _summary(store, finished, place):
        print_line(line)
    if place.rank == 0:
        table = write_index(address, is_announced=True)
        print_line(f"{address}: complete{f'; index: {table}' if table else ''}.")
    return 0


def _request(config: ExplainConfig) -> Request:
    whole = config.whole
    return Request(
        methods={"default": None, "none": ()}.get(config.methods, tuple(parse_names(config.methods))),
        target=config.target or "predicted",
        jacobian=whole.jacobian,
        embeddings=True if whole.embeddings else None,
        embedding_layer=whole.embedding_layer,
        dtype=whole.dtype,
        limit=whole.limit,
        shard=whole.shard,
        threads=config.threads,
    )


def _opened(config: ExplainConfig) -> LazyImages:
    """Open the images to explain."""
    whole = config.whole
    folder = (whole.data_dir or Path("save/data")).expanduser()
    request = DataRequest(folder, mirrors=whole.mirror, image_size=None, max_megapixels=whole.max_megapixels)
    return open_data(whole.dataset or "", request).test


def _loaded(
    config: ExplainConfig, images: LazyImages, names: Sequence[str] | None, steps: dict[str, Any]
) -> LoadedModel:
    """Load the model for the shape of the images."""
    known = names or images.classes
    # built-in networks are built for this shape
    shape = Source.of(images, choose_preprocessing(nn.Identity(), **steps), None, None, config.whole.limit).image_shape
    return load_model(
        config.model,
        weights=config.network.weights,
        image_shape=shape,
        classes=None if known is None else len(known),
        trust=config.trust,
    )


def _state(store: ShardedStore) -> str:
    return (
        f"{len(store.completed()):,} of {store.shards:,} shards are complete in {store.address}; repeat the command to "
        "continue."
    )


def _summary(store: ShardedStore, finished: Finished, place: Place) -> Iterator[str]:
    if not finished.shards:
        yield "Nothing to do: no shard was missing."
        return
    by = "" if place.size == 1 else f" by process {place.rank}"
    yield f"{finished.images:,} images explained{by}, in {finished.shards:,} of {store.shards:,} shards."
    if finished.unreadable:
        yield f"{finished.unreadable:,} of these images have no results; the variable `error` says why."


def _described(job: Job, address: Address) -> Iterator[str]:
    """Yield the lines of a dry run, with the speed measured on one batch."""
    layout, source = job.layout, job.source
    yield f"Store: {address}, {layout.shards:,} shards of {layout.shard:,} images"
    size = "×".join(map(str, source.image_shape))
    yield f"Images: {source.count:,} of {source.images.total or 0:,} in {source.images.name}, {size}"
    yield f"Methods: {', '.join(job.analyzers) or 'none'}; target: {job.target}"
    total = 0
    for one in layout.variables:
        if one.values is None:
            stored = one.row_bytes * source.count
            total += stored
            lengths = zip(one.dimensions, (source.count, *one.row), strict=True)
            axes = " × ".join(f"{axis} {length:,}" for axis, length in lengths)
            yield f"  {one.name:<12} {one.dtype:<8} {axes:<60} {_bytes(stored):>10}"
    per_shard = sum(one.values is None for one in layout.variables) + 1
    yield f"Size before compression: {_bytes(total)} in {layout.shards * per_shard:,} files"
    yield f"Forward passes: about {job.passes:,.0f} per image, {job.passes * source.count:,.0f} in total"
    reads = source.read(range(min(job.batch, source.count)))
    rows_of(job, reads)  # the first pass of a size is slower
    begun = time.perf_counter()
    rows_of(job, source.read(range(len(reads))))
    seconds = (time.perf_counter() - begun) / len(reads)
    yield (
        f"Speed of this process: about {1 / seconds:,.1f} images/s, so one process takes "
        f"{duration(seconds * source.count)}"
    )


def _bytes(count: float) -> str:
    """Return a size in a readable unit.

    >>> _bytes(94_080_000)
    '94.1 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"
