"""Load, build and check everything a run needs, before any file of an earlier run is touched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.config import RunConfig
from pellucid.core.budget import find_budget
from pellucid.core.contracts import DataSplits, Metadata
from pellucid.core.errors import ConfigError, SaveError, UnknownName
from pellucid.core.importing import check_trusted
from pellucid.core.listing import parse_names
from pellucid.data._load import load_data
from pellucid.data._loaders import steps_per_epoch
from pellucid.data._metadata import check_metadata, read_metadata
from pellucid.data._source import Request
from pellucid.data._spec import is_function, parse_spec
from pellucid.engine.tap import find_embedding
from pellucid.hooks import HOOKS, Hook, Scene
from pellucid.models._build import check_fit
from pellucid.models._class_names import read_class_names
from pellucid.models._load import check_available
from pellucid.models._spec import parse_spec as parse_model
from pellucid.run.network import Built, build_network, renamed
from pellucid.storage.densities import DensityStore
from pellucid.storage.recordings import Recorded
from pellucid.storage.runs import check_same_data
from pellucid.storage.store import Store
from pellucid.storage.weights import unpack_weights
from pellucid.training.checkpoint import TrainingState, unpack_state
from pellucid.training.distributed import World
from pellucid.training.evaluate import evaluate
from pellucid.training.loop import Epoch, Recipe

__all__ = [
    "Session",
    "check_same_metadata",
    "choose_classes",
    "choose_device",
    "choose_hooks",
    "prepare",
    "set_threads",
]

MOST_KEPT_BYTES = 20_000_000
"""Maximum size of the weights of all epochs that a run keeps by default."""
LARGEST_SMALL_SIDE = 64
"""Largest side, in pixels, of images that are trained on with one thread by default: more threads slow these down."""


@dataclass(frozen=True, eq=False)
class Session:
    """State shared by all steps of a run."""

    config: RunConfig
    world: World
    store: Store
    device: torch.device
    data: DataSplits
    model: nn.Module
    network: Built
    """The network with its entries in run.json."""
    hooks: dict[str, Hook]
    recipe: Recipe
    resumed: TrainingState | None
    classes: tuple[int, ...] | None
    embedding_layer: str | None
    earlier: Mapping[str, Any]
    """The run.json of the run being resumed; empty for a new run."""
    metadata: Metadata | None = None
    """The rows of `--metadata` for the test images."""

    @property
    def extended_from(self) -> int | None:
        """Number of epochs that the run being resumed was planned for, if more are wanted now; otherwise None."""
        planned = self.earlier.get("epochs")
        return planned if planned is not None and planned < self.recipe.epochs else None

    @cached_property
    def keeps_checkpoints(self) -> bool:
        """True to keep the weights of every epoch; by default, if those of all epochs take at most 20 MB."""
        wanted = self.config.training.keep_checkpoints
        if wanted is not None:
            return wanted
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())
        return size * (self.recipe.epochs + 1) <= MOST_KEPT_BYTES

    @cached_property
    def densities(self) -> DensityStore:
        """The densities of the training images, kept in the save folder and, for later runs, with the data."""
        folder = _data_folder(self.config)
        source, argument = parse_spec(self.data.name)
        # a folder below the user's images would become another class
        is_users = source == "folder" and folder.resolve().is_relative_to(Path(argument).resolve())
        return DensityStore(
            self.data.train.pixels,
            self.recipe.seed,
            self.store.folder,
            data=None if is_users else folder,
            device=self.device,
        )

    def scene(self, epoch: int, logits: Tensor, validation_logits: Tensor) -> Scene:
        """Return the scene for the hooks after an epoch; `logits` are those of the test images."""
        methods = self.config.show.methods
        return Scene(
            epoch=epoch,
            model=self.model,
            device=self.device,
            test=self.data.test,
            logits=logits,
            classes=self.data.classes,
            data_title=self.data.title,
            seed=self.recipe.seed,
            chosen_classes=self.classes,
            methods=tuple(parse_names(methods)) if methods else None,
            embedding_layer=self.embedding_layer,
            validation=self.data.validation,
            validation_logits=validation_logits,
            train=self.data.train,
            fitted=self.densities.get,
            metadata=self.metadata,
            # trained weights are not an untrained network
            moment="epoch 0 (before training)" if epoch == 0 and self.network.is_pretrained else None,
            budget=None if self.config.show.budget is None else find_budget(self.config.show.budget),
            recorded=Recorded(self.store),
        )

    def restored_scene(self, epoch: int) -> Scene:
        """Load the weights of an epoch whose hooks have not finished, and return what the hooks are given."""
        self._load(self.store.unfinished_name(epoch))
        if epoch:  # the training loop sets this mode before the first step
            self.model.train()
        return self.scene(epoch, *self._logits())

    def final_scene(self, best: Epoch | None = None) -> Scene:
        """Load the best weights into the model and return what the hooks are given at the end of training.

        `best` is the best epoch, if it was trained in this process; its logits need not be computed again.
        """
        self._load("best.safetensors")
        logits, of_validation = self._logits() if best is None else (best.test_logits, best.validation_logits)
        # an epoch is marked as best if it beats all earlier ones, so the last mark counts
        number = max((line["epoch"] for line in self.store.metrics() if line.get("best")), default=None)
        return replace(self.scene(self.recipe.epochs, logits, of_validation), weights_epoch=number)

    def _logits(self) -> tuple[Tensor, Tensor]:
        """Compute the logits of the test and of the validation images, in the batches of the training loop."""
        test, validation = (evaluate(self.model, part, self.device) for part in (self.data.test, self.data.validation))
        return test, validation

    def _load(self, name: str) -> None:
        content = self.store.read_model(name)
        if content is None:
            raise SaveError(f"{name} is missing from {self.store.folder / 'models'}; run the training again.")
        self.model.load_state_dict(unpack_weights(content))


def prepare(config: RunConfig, world: World) -> Session:
    """Load, build and check everything, without touching the files of an earlier run.

    If anything is invalid, raises a `PellucidError` in one process of the run and `PeerFailed` in the others.
    """
    store = Store(config.save)
    earlier, device, hooks = world.together(lambda: _choose(config, world, store))
    data = _load(config, world, earlier)
    return world.together(lambda: _build(config, world, store, earlier, device, hooks, data))


def _choose(config: RunConfig, world: World, store: Store) -> tuple[Mapping[str, Any], torch.device, dict[str, Hook]]:
    """Check and resolve the settings that don't depend on the data."""
    earlier = store.run() if config.resume else {}
    if earlier.get("kind", "run") != "run":
        raise ConfigError(
            f"{config.save} was written by pellucid.{earlier['kind']}, not by `pellucid run`, so --resume cannot "
            "continue it. Start a new run without --resume, or choose another folder with --save."
        )
    if config.resume:
        store.check_whole()
        _refuse_changes(earlier, config)
        data = str(earlier.get("dataset", {}).get("name", ""))
        if is_function(data):  # data given as `auto` is loaded by the name in run.json
            check_trusted("data set", data, config.save, config.trust or data == config.data.dataset)
    check_metadata(config.show.metadata)
    if config.training.batch_size % world.size:
        raise ConfigError(
            f"--batch-size {config.training.batch_size} cannot be split evenly over {world.size} processes; "
            f"choose a multiple of {world.size}."
        )
    if not config.resume:  # report mistakes before the data is downloaded
        check_available(config.training.model, config.network.weights)
        kind, place = parse_model(config.training.model)
        if kind == "run":
            Store(Path(place)).check_run("models/best.safetensors")
        if config.network.class_names is not None:
            read_class_names(config.network.class_names)
    return (
        earlier,
        choose_device(config.training.device, world),
        choose_hooks(config.show.hooks, has_metadata=config.show.metadata is not None),
    )


def _build(
    config: RunConfig,
    world: World,
    store: Store,
    earlier: Mapping[str, Any],
    device: torch.device,
    hooks: dict[str, Hook],
    data: DataSplits,
) -> Session:
    """Build the model, check it against the data and assemble the session."""
    settings, show = config.training, config.show
    # A resumed run keeps the thread count of its first part, since results depend on it in the last bits.
    set_threads(settings.threads or earlier.get("threads"), data.train.image_shape)
    resumed = _read_checkpoint(store) if config.resume else None
    network = build_network(config, data, earlier, is_restored=resumed is not None)
    model = network.model.to(device)
    # a single image if training has such batches: a batch norm that rejects it would fail in training too
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
        network=network,
        hooks=hooks,
        recipe=Recipe(
            epochs=settings.epochs or earlier.get("epochs") or data.default_epochs,
            steps_per_epoch=steps_per_epoch(len(data.train), settings.batch_size),
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            precision=settings.precision,
        ),
        resumed=resumed,
        classes=choose_classes(show.classes, data.classes),
        embedding_layer=show.embedding_layer,
        earlier=earlier,
        metadata=_metadata(show.metadata, data, earlier),
    )


def _metadata(file: str | None, data: DataSplits, earlier: Mapping[str, Any]) -> Metadata | None:
    """Return the rows of `--metadata` for the test images."""
    if file is None:
        return None
    is_split = data.test_positions is not None and data.test_total != len(data.test)
    images = f"test images of {data.name}" + (" before --limit-test" if is_split else "")
    positions = torch.arange(len(data.test)) if data.test_positions is None else data.test_positions
    metadata = read_metadata(file, positions, data.test_total or len(data.test), images)
    check_same_metadata(metadata, earlier, "start a new run without --resume")
    return metadata


def check_same_metadata(metadata: Metadata | None, earlier: Mapping[str, Any], other_way: str) -> None:
    """Raise `SaveError` unless `metadata` is that of the earlier part of a run, if it had any.

    `earlier` is the run.json; `other_way` says what to do if the table is gone.
    """
    recorded = earlier.get("metadata") or {}
    if not recorded or (metadata is not None and metadata.sha256 == recorded.get("sha256")):
        return
    name = recorded.get("file") or "the table in memory"
    received = "none" if metadata is None else f"one with the checksum {str(metadata.sha256)[:12]}…"
    raise SaveError(
        f"the metadata has changed since the run started: it was {name} with the checksum "
        f"{str(recorded.get('sha256'))[:12]}…, got {received}. Pass the original table, or {other_way}."
    )


def choose_hooks(wanted: str, *, has_metadata: bool = False, has_recordings: bool = True) -> dict[str, Hook]:
    """Return the hooks that `--hooks` names, in order. Raises `UnknownName` for an unknown one.

    With metadata, the default ones include `slices`. Without recordings, as for a network trained elsewhere, they
    exclude hooks that need them.
    """
    if wanted == "none":
        return {}
    # only a group imports every hook, which skips broken ones of other packages
    known = dict(HOOKS.items()) if {"all", "default"} & set(parse_names(wanted)) else {}
    extra = ("slices",) if has_metadata else ()
    groups = {
        "all": list(known),
        "default": [
            name
            for name, hook in known.items()
            if (hook.default or name in extra) and (has_recordings or not hook.needs_recording)
        ],
    }
    return {name: HOOKS[name]() for name in parse_names(wanted, HOOKS.check, groups)}


def choose_classes(wanted: str | None, classes: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the indices of the classes in `--classes`, each given by name or by index."""
    if wanted is None:
        return None
    indices = []
    for name in parse_names(wanted):
        # names first, since classes can have names such as "1"
        if name in classes:
            indices.append(classes.index(name))
        elif name.isdecimal() and int(name) < len(classes):
            indices.append(int(name))
        else:
            raise UnknownName("class", name, classes)
    return tuple(dict.fromkeys(indices))


def choose_device(wanted: str, world: World) -> torch.device:
    """Return the device that `--device` names. Raises `ConfigError` if this machine does not have it."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        # without an index, each process takes the GPU of its local rank
        index = device.index if ":" in wanted else world.local_rank
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"--device {wanted} is not available: this machine has {torch.cuda.device_count()} CUDA devices. "
                "Choose an available one, or --device cpu."
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps is not available: this machine has no Metal device. Choose --device cpu.")
    return device


def set_threads(threads: int | None, image_shape: tuple[int, int, int]) -> None:
    """Set the number of CPU threads: as given, or one for small images and all cores for larger ones."""
    torch.set_num_threads(threads or (1 if max(image_shape[1:]) <= LARGEST_SMALL_SIDE else os.cpu_count() or 1))


def _data_folder(config: RunConfig) -> Path:
    return (config.data.data_dir or config.save / "data").expanduser()


def _load(config: RunConfig, world: World, earlier: Mapping[str, Any]) -> DataSplits:
    """Load the data; the first process downloads it, then the others read the files from disk."""
    pinned = earlier.get("dataset", {})
    settings = config.data
    request = Request(
        folder=_data_folder(config),
        mirrors=settings.mirror,
        image_size=settings.image_size,
        crop=config.network.crop,
        max_megapixels=settings.max_megapixels,
        seed=config.training.seed,
    )
    limits = {"limit_train": settings.limit_train, "limit_test": settings.limit_test}
    data = world.first(lambda: load_data(pinned.get("name", settings.dataset), request, **limits))
    # `auto` could resolve differently in each process
    name = str(world.agree(data.name if data else None))
    loaded = world.together(lambda: data or load_data(name, request, **limits))
    data = world.together(lambda: renamed(loaded, config.network.class_names))
    if pinned:
        world.together(lambda: check_same_data(data, pinned, "or start a new run without --resume"))
    return data


PINNED = (
    "dataset",
    "image_size",
    "limit_train",
    "limit_test",
    "model",
    "weights",
    "class_names",
    "crop",
    "mean",
    "std",
    "batch_size",
    "learning_rate",
    "seed",
    "precision",
)
"""Settings that cannot change when a run is resumed. The number of epochs can only grow."""


def _refuse_changes(earlier: Mapping[str, Any], config: RunConfig) -> None:
    before, now = earlier.get("config", {}), config.flat()
    changed = [
        f"--{name.replace('_', '-')} was {before.get(name)}, now {now[name]}"
        for name in PINNED
        if before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(
            f"this run cannot be resumed with different settings: {'; '.join(changed)}. Omit these flags, or start a "
            "new run without --resume."
        )
    wanted, planned = config.training.epochs, earlier.get("epochs")
    if wanted is not None and planned is not None and wanted < planned:
        raise ConfigError(
            f"this run was planned for {planned} epochs and cannot be shortened to --epochs {wanted}. Omit --epochs to "
            "continue as planned, pass a larger number to extend the run, or start a new run without --resume."
        )


def _read_checkpoint(store: Store) -> TrainingState | None:
    """Read the training state of the run to resume; None if it stopped before its first checkpoint."""
    content, weights = store.read_model("last.ckpt"), store.read_model("best.safetensors")
    if content is None:
        if any(line.get("epoch") for line in store.metrics()):
            raise SaveError(
                f"the checkpoint last.ckpt is missing from {store.folder / 'models'}; restore it, or start a new run "
                "without --resume."
            )
        return None
    state = unpack_state(content)
    if weights is None:
        raise SaveError(
            f"best.safetensors is missing from {store.folder / 'models'}; restore it, or start a new run without "
            "--resume."
        )
    unpack_weights(weights)  # only to check the file; the end hooks read it much later
    return state
