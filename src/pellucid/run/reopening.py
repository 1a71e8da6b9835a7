"""Open the model and the test images of a saved run or inspection again."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.config import HookConfig, InspectConfig, ModelConfig
from pellucid.core.checksum import fingerprint
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, ModelError, SaveError
from pellucid.core.importing import check_trusted
from pellucid.data._spec import is_function
from pellucid.models._spec import is_function as is_model_function
from pellucid.run.inspection import prepare_inspection
from pellucid.run.observation import observe
from pellucid.storage.store import Store

__all__ = ["Access", "Reopened", "reopen_inspection"]


@dataclass(frozen=True)
class Access:
    """A save folder, and how to reach its data."""

    folder: Path
    trust: bool = False
    data_dir: Path | None = None
    mirror: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reopened:
    """A model and its test images."""

    model: nn.Module
    images: ImageSet
    classes: tuple[str, ...]
    epoch: int | None
    """Epoch of the weights; None if unknown."""
    embedding_layer: str | None
    indices: list[int]
    """Position of each image in the data set's test images."""
    files: list[str | None]
    """File of each image; None if it is part of a larger file."""


def reopen_inspection(access: Access, record: Mapping[str, Any]) -> Reopened:
    """Open a run of `pellucid inspect`, whose settings in `record` lead to the model and to the same sample.

    Raises `ConfigError` for a run that a Python program wrote, `SaveError` if the data has changed and `ModelError` if
    the weights have.
    """
    settings = record["config"]
    if record["kind"] != "inspect" or "model" not in settings or "dataset" not in settings:
        raise ConfigError(
            f"the run in {access.folder} was written by a Python program (pellucid.{record['kind']}), and only "
            "that program has its model and data. Only runs of `pellucid run` and `pellucid inspect` can be opened "
            "again."
        )
    name, model = record["dataset"]["name"], str(settings["model"])
    if is_function(name):
        check_trusted("data set", name, access.folder, access.trust)
    if is_model_function(model):
        check_trusted("model", model, access.folder, access.trust)
    plain = ("image_size", "max_megapixels", "seed")
    given = InspectConfig(
        model=model,
        dataset=name,
        network=ModelConfig(**{each.name: settings.get(each.name) for each in fields(ModelConfig)}),
        show=HookConfig(hooks="none", budget=settings.get("budget"), embedding_layer=settings.get("embedding_layer")),
        save=access.folder,
        data_dir=access.data_dir or (Path(settings["data_dir"]) if settings.get("data_dir") else None),
        mirror=(*access.mirror, *settings.get("mirror", ())),
        trust=access.trust,
        **{name: settings[name] for name in plain if name in settings},
    )
    loaded, data, options = prepare_inspection(given)
    seen = observe("inspect", loaded.model, data.test, replace(options, training_data=None))
    if seen.test.sha256 != record["dataset"]["sha256"]:
        raise SaveError(
            f"the data set {name} has changed since the run in {access.folder}, or is prepared differently: the "
            f"checksum of its test images is {seen.test.sha256[:12]}…, expected {record['dataset']['sha256'][:12]}…. "
            "Restore the original files, or inspect the model again."
        )
    recorded = [line.get("weights") for line in Store(access.folder).metrics()]
    if recorded and fingerprint(seen.model) not in recorded:
        raise ModelError(
            f"the weights of {model} have changed since the run in {access.folder}; restore them, or inspect the model "
            "again."
        )
    indices = list(seen.test.indices or range(len(seen.test.images)))
    files = data.test.files
    paths: list[str | None] = [None if files is None else str(files[index]) for index in indices]
    layer = options.show.embedding_layer
    return Reopened(seen.seen, seen.test.images, seen.classes, 0, layer, indices, paths)
