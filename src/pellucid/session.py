"""Everything a run needs, loaded, built and checked before anything an earlier run left is touched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from pellucid.artifacts.store import Store
from pellucid.artifacts.weights import unpack_weights
from pellucid.config import RunConfig
from pellucid.core.contracts import DataSplits
from pellucid.core.errors import ConfigError, SaveError, UnknownName
from pellucid.data._load import load_data
from pellucid.data._loaders import steps_per_epoch
from pellucid.data._source import Request
from pellucid.engine.tap import find_embedding
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook
from pellucid.models._build import build_model, check_fit
from pellucid.training.checkpoint import TrainingState, unpack_state
from pellucid.training.distributed import World
from pellucid.training.loop import Recipe

__all__ = ["Session", "prepare"]

LARGEST_SMALL_SIDE = 64
"""Images up to this many pixels a side are trained on with one thread by default."""


@dataclass(frozen=True, eq=False)
class Session:
    """What all steps of one run share."""

    config: RunConfig
    world: World
    store: Store
    device: torch.device
    data: DataSplits
    model: nn.Module
    hooks: dict[str, Hook]
    recipe: Recipe
    resumed: TrainingState | None
    classes: tuple[int, ...] | None
    embedding_layer: str | None
    earlier: Mapping[str, Any]
    """The run.json of the run that is resumed; empty for a new one."""


def prepare(config: RunConfig, world: World) -> Session:
    """Load, build and check everything; what an earlier run left is not touched yet.

    Raises a `PellucidError` in one process of a run, and `PeerFailed` in its others, for whatever cannot work.
    """
    store = Store(config.save)
    earlier, device, hooks = world.together(lambda: _choose(config, world, store))
    data = _load(config, world, earlier)
    return world.together(lambda: _build(config, world, store, earlier, device, hooks, data))


def _choose(config: RunConfig, world: World, store: Store) -> tuple[Mapping[str, Any], torch.device, dict[str, Hook]]:
    """What can be settled before the data is there."""
    earlier = store.run() if config.resume else {}
    if config.resume:
        store.check_whole()
        _refuse_changes(earlier, config)
    if config.training.batch_size % world.size:
        raise ConfigError(
            f"--batch-size {config.training.batch_size} cannot be shared by {world.size} processes; "
            f"choose a multiple of {world.size}."
        )
    return earlier, _choose_device(config.training.device, world), _choose_hooks(config.show.hooks)


def _build(
    config: RunConfig,
    world: World,
    store: Store,
    earlier: Mapping[str, Any],
    device: torch.device,
    hooks: dict[str, Hook],
    data: DataSplits,
) -> Session:
    """The model, checked against the data, and everything else of a session."""
    settings, show = config.training, config.show
    _set_threads(settings.threads or earlier.get("threads"), data)
    model = build_model(settings.model, data.train.image_shape, len(data.classes), settings.seed).to(device)
    smallest_batch = min(len(data.train), settings.batch_size // world.size)
    sample = data.train.floats(slice(min(smallest_batch, 2))).to(device)
    check_fit(model, sample, len(data.classes))
    if show.embedding_layer is not None:
        find_embedding(model, sample, show.embedding_layer).read(sample)
    return Session(
        config=config,
        world=world,
        store=store,
        device=device,
        data=data,
        model=model,
        hooks=hooks,
        recipe=Recipe(
            epochs=settings.epochs or data.default_epochs,
            steps_per_epoch=steps_per_epoch(len(data.train), settings.batch_size),
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            precision=settings.precision,
        ),
        resumed=_read_checkpoint(store) if config.resume else None,
        classes=_choose_classes(show.classes, data.classes),
        embedding_layer=show.embedding_layer,
        earlier=earlier,
    )


def _choose_hooks(wanted: str) -> dict[str, Hook]:
    if wanted == "none":
        return {}
    groups = {"all": HOOKS.names(), "default": [name for name in HOOKS if HOOKS[name].default]}
    parts = (groups.get(name, [name]) for name in (part.strip() for part in wanted.split(",")))
    return {name: HOOKS[name]() for name in dict.fromkeys(chain.from_iterable(parts))}


def _choose_classes(wanted: str | None, classes: tuple[str, ...]) -> tuple[int, ...] | None:
    """The indices of the classes that `--classes` names, by name or by index."""
    if wanted is None:
        return None
    indices = []
    for name in (part.strip() for part in wanted.split(",")):
        if name in classes:
            indices.append(classes.index(name))
        elif name.isdecimal() and int(name) < len(classes):
            indices.append(int(name))
        else:
            raise UnknownName("class", name, classes)
    return tuple(dict.fromkeys(indices))


def _choose_device(wanted: str, world: World) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        index = device.index if ":" in wanted else world.local_rank
        if index >= torch.cuda.device_count():
            raise ConfigError(f"--device {wanted}: this machine shows {torch.cuda.device_count()} CUDA devices.")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no Metal device; choose --device cpu.")
    return device


def _set_threads(threads: int | None, data: DataSplits) -> None:
    side = max(data.train.image_shape[1:])
    torch.set_num_threads(threads or (1 if side <= LARGEST_SMALL_SIDE else os.cpu_count() or 1))


def _load(config: RunConfig, world: World, earlier: Mapping[str, Any]) -> DataSplits:
    """The data; the first process loads before the others, which then find the files on disk."""
    pinned = earlier.get("dataset", {})
    settings = config.data
    request = Request(
        folder=(settings.data_dir or config.save / "data").expanduser(),
        mirrors=settings.mirror,
        image_size=settings.image_size,
        seed=config.training.seed,
    )
    limits = {"limit_train": settings.limit_train, "limit_test": settings.limit_test}
    data = world.first(lambda: load_data(pinned.get("name", settings.dataset), request, **limits))
    name = str(world.agree(data.name if data else None))
    data = world.together(lambda: data or load_data(name, request, **limits))
    world.together(lambda: _refuse_other_data(pinned, data))
    return data


def _refuse_other_data(pinned: Mapping[str, Any], data: DataSplits) -> None:
    if pinned and pinned.get("sha256") != data.sha256:
        raise SaveError(
            f"the data set {data.name} is not the one the run began with (checksum {data.sha256[:12]}…, then "
            f"{str(pinned.get('sha256'))[:12]}…); bring the old files back, or start anew without --resume."
        )


PINNED = (
    "dataset",
    "image_size",
    "limit_train",
    "limit_test",
    "model",
    "epochs",
    "batch_size",
    "learning_rate",
    "seed",
    "precision",
)
"""Settings that a resumed run must share with the run it continues."""


def _refuse_changes(earlier: Mapping[str, Any], config: RunConfig) -> None:
    before, now = earlier.get("config", {}), config.flat()
    changed = [
        f"--{name.replace('_', '-')} was {before.get(name)} and is {now[name]}"
        for name in PINNED
        if before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(
            f"this run cannot be resumed with other settings: {'; '.join(changed)}. Resume it without them, or start "
            "anew without --resume."
        )


def _read_checkpoint(store: Store) -> TrainingState | None:
    """Where the run to resume stands; None where it had not come to its first checkpoint."""
    content, weights = store.read_model("last.ckpt"), store.read_model("best.safetensors")
    if content is None:
        if any(line.get("epoch") for line in store.metrics()):
            raise SaveError(
                f"the checkpoint is gone from {store.folder / 'models'}; bring it back, or start anew without --resume."
            )
        return None
    state = unpack_state(content)
    if weights is None:
        raise SaveError(f"the best weights are gone from {store.folder / 'models'}; start anew without --resume.")
    unpack_weights(weights)
    return state
