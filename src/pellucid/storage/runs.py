"""Load a saved run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.cards import card, facts_html, table_html, text_html
from pellucid.core.contracts import DataSplits
from pellucid.core.errors import ModelError, SaveError
from pellucid.core.importing import check_trusted
from pellucid.core.isolation import isolated
from pellucid.core.origin import Origin, remember_origin
from pellucid.core.preprocessing import Preprocessing
from pellucid.data import Request, load_data
from pellucid.data._spec import is_function
from pellucid.models._adapted import adapted
from pellucid.models._load import rebuild_model
from pellucid.models._spec import is_function as is_model_function
from pellucid.storage.recordings import Recorded
from pellucid.storage.store import Store
from pellucid.storage.weights import unpack_weights

__all__ = ["Architecture", "Run", "check_same_data", "load_data_of", "load_run", "request_of"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished (or interrupted) run."""

    model: nn.Module
    """The model with its best weights, or those of `epoch`, in eval mode, on the CPU."""
    config: Mapping[str, Any]
    """All flags and their values."""
    classes: tuple[str, ...]
    metrics: list[dict[str, Any]]
    """The records of metrics.jsonl, by epoch."""
    trust: bool = False
    """True if the user allows importing the functions that run.json names."""
    epoch: int | None = None
    """Epoch of the weights, if one was asked for."""
    recorded: Recorded | None = None
    """Predictions on training images, recorded in every epoch; None for a run of an earlier version, or without
    training."""

    def _repr_html_(self) -> str:
        """Return model, data, settings and scores as HTML for notebooks."""
        best = [line for line in self.metrics if line.get("best")]
        if self.epoch is not None:
            best = [line for line in self.metrics if line["epoch"] == self.epoch]
        facts = [
            ("test accuracy", _percent(best[-1].get("test_accuracy")) if best else None),
            ("weights of epoch", None if self.epoch is None else str(self.epoch)),
            ("model", self.config.get("model")),
            ("parameters", f"{sum(parameter.numel() for parameter in self.model.parameters()):,}"),
            ("data", self.config.get("dataset")),
            ("classes", _listed(self.classes)),
            ("seed", self.config.get("seed")),
        ]
        names = ("epoch", "train_loss", "validation_accuracy", "test_loss", "test_accuracy")
        shown = self.metrics if len(self.metrics) <= ROWS else [*self.metrics[:3], *self.metrics[3 - ROWS :]]
        rows = [
            [_cell(name, line.get(name)) + " ★" * (name == "epoch" and bool(line.get("best"))) for name in names]
            for line in shown
        ]
        note = f"{len(shown)} of {len(self.metrics)} epochs; ★ best so far." if rows else ""
        heading = [name.replace("_", " ") for name in names]
        return card("Run", facts_html(facts), table_html(heading, rows) if rows else "", text_html(note))


ROWS = 12
"""Maximum number of epochs shown in a notebook."""


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f" … ({len(names)})" if len(names) > 10 else "")


def _percent(value: object) -> str | None:
    return f"{value:.2%}" if isinstance(value, float | int) else None


def _cell(name: str, value: object) -> str:
    if name.endswith("accuracy"):
        return _percent(value) or "–"
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def load_run(folder: str | Path, *, epoch: int | None = None, trust: bool = False) -> Run:
    """Load the run in a save folder, with its best weights or those of `epoch` (0: before training).

    A run keeps the weights of all epochs if they take at most 20 MB, or with `--keep-checkpoints`.

    The weights are stored as safetensors, which cannot execute code. A model given as MODULE:FUNCTION, however, is
    built by importing and calling that function, which needs `trust=True`: pass it only for folders whose origin you
    trust.

    Raises `SaveError` if the folder holds no run, no weights or not those of `epoch`, `ConfigError` if `trust` is
    needed, and `ModelError` if the weights do not fit the model, whose code may have changed since.
    """
    store = Store(Path(folder))
    store.check_run("run.json")
    record = store.run()
    if (kind := record.get("kind", "run")) != "run":
        raise SaveError(
            f"{folder} was written by pellucid.{kind}, which stores no weights; load the model as your program does."
        )
    store.check_run("models/best.safetensors")
    content = store.read_model("best.safetensors") if epoch is None else _kept_weights(store, epoch)
    assert content is not None
    try:
        name, classes, config = record["model"]["name"], tuple(record["dataset"]["classes"]), record["config"]
        channels, height, width = record["dataset"]["image_shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise SaveError(
            f"{folder}/run.json is damaged or not a run's record ({type(error).__name__}: {error})."
        ) from error
    if is_model_function(name):
        check_trusted("model", name, folder, trust)
    with isolated(takes_turns=False):  # weights created in inference mode could never be differentiated
        weights = unpack_weights(content)
        model = _filled_model(
            Architecture.of(record["model"]), (channels, height, width), len(classes), weights, folder
        )
    remember_origin(model, Origin((channels, height, width), Path(folder)))
    recorded = Recorded(store) if store.recorded_epochs() else None
    return Run(model.eval(), config, classes, store.metrics(), trust, epoch, recorded)


def _kept_weights(store: Store, epoch: int) -> bytes:
    """Read the weights of an epoch; raises `SaveError` if the run does not have them."""
    lines = store.metrics()
    if not any(line["epoch"] == epoch for line in lines):
        known = f"its epochs are {lines[0]['epoch']} to {lines[-1]['epoch']}" if lines else "it has finished no epoch"
        raise SaveError(f"the run in {store.folder} has no epoch {epoch}: {known}.")
    content = store.read_model(store.kept_name(epoch))
    # an epoch is marked as best if it beats all earlier ones, so the last mark counts
    if content is None and epoch == max((line["epoch"] for line in lines if line.get("best")), default=None):
        content = store.read_model("best.safetensors")
    if content is None:
        kept = store.kept_epochs()
        which = f"only those of epochs {', '.join(map(str, kept))}" if kept else "only the best ones"
        raise SaveError(
            f"the run in {store.folder} did not keep the weights of epoch {epoch}, {which}. Train again with "
            "--keep-checkpoints."
        )
    return content


@dataclass(frozen=True)
class Architecture:
    """The network of a run, as described in its run.json."""

    name: str
    options: Mapping[str, Any] | None
    """The `options` of the `LoadedModel`; None for registered models and functions."""
    preprocessing: Mapping[str, Any] | None
    """Normalization within the model; None if it has none."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Architecture":
        """Return the architecture in the entry `model` of a run.json."""
        return cls(str(record["name"]), record.get("options"), record.get("preprocessing"))

    def build(self, image_shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
        """Build the network with random weights, from images in [0, 1] to logits."""
        model = rebuild_model(self.name, image_shape, classes, self.options, seed)
        if self.preprocessing is None:
            return model
        try:
            mean, std = (self.preprocessing[name] for name in ("mean", "std"))
            steps = Preprocessing(None if mean is None else tuple(mean), None if std is None else tuple(std))
        except (KeyError, TypeError, ValueError) as error:
            raise SaveError(f"the preprocessing in run.json is damaged ({type(error).__name__}: {error}).") from error
        return adapted(model, steps)


def _filled_model(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    classes: int,
    weights: Mapping[str, Tensor],
    folder: str | Path,
) -> nn.Module:
    """Build the model and load its weights."""
    message = f"the weights in {folder} do not fit the model {architecture.name}, whose code may have changed"
    if not is_model_function(architecture.name):
        # A damaged image shape could ask for any amount of memory; on this device, tensors have a shape and no memory.
        shapes, saved = _shapes(architecture, image_shape, classes), {key: one.shape for key, one in weights.items()}
        if shapes is not None and shapes != saved:
            raise ModelError(f"{message}: their shapes differ from those for images of shape {image_shape}.")
    model = architecture.build(image_shape, classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{message}: {error}") from error
    return model


def _shapes(architecture: Architecture, image_shape: tuple[int, int, int], classes: int) -> dict[str, Any] | None:
    """Return the shapes of the network's tensors; None if a library cannot build it without values."""
    try:
        with torch.device("meta"):
            return {key: one.shape for key, one in architecture.build(image_shape, classes).state_dict().items()}
    except ModelError:
        if ":" not in architecture.name:
            raise
        return None


def load_data_of(
    folder: str | Path, run: Run, data_dir: Path | None = None, mirrors: tuple[str, ...] = ()
) -> DataSplits:
    """Load the data set that the run in `folder` was trained on.

    Raises `SaveError` if it has changed since, and `ConfigError` for a function if the run was loaded without `trust`.
    """
    folder, settings = Path(folder), run.config
    recorded = Store(folder).run()["dataset"]
    request = request_of(folder, settings, data_dir, mirrors)
    if is_function(recorded["name"]):
        check_trusted("data set", recorded["name"], folder, run.trust)
    limits = {name: settings.get(name) for name in ("limit_train", "limit_test")}
    data = load_data(recorded["name"], request, **limits)
    check_same_data(data, recorded, "or train again")
    return data


def request_of(
    folder: Path, settings: Mapping[str, Any], data_dir: Path | None = None, mirrors: tuple[str, ...] = ()
) -> Request:
    """Return the request for the data of the run in `folder`, from its settings."""
    return Request(
        folder=(data_dir or Path(settings.get("data_dir") or folder / "data")).expanduser(),
        mirrors=(*mirrors, *settings.get("mirror", ())),
        image_size=settings.get("image_size"),
        crop=settings.get("crop"),
        seed=int(settings.get("seed", 0)),
        max_megapixels=int(settings.get("max_megapixels", Request.max_megapixels)),
    )


def check_same_data(data: DataSplits, recorded: Mapping[str, Any], other_way: str) -> None:
    """Raise `SaveError` unless `data` has the checksum in `recorded`, the entry `dataset` of a run.json.

    `other_way` ends the message: what to do if the original files are gone.
    """
    if recorded.get("sha256") != data.sha256:
        raise SaveError(
            f"the data set {data.name} has changed since the run started: its checksum is {data.sha256[:12]}…, was "
            f"{str(recorded.get('sha256'))[:12]}…. Restore the original files, {other_way}."
        )
