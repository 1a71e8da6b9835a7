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
from pellucid.core.importing import check_trusted, is_function_name
from pellucid.core.isolation import isolated
from pellucid.core.origin import Origin, remember_origin
from pellucid.data import Request, load_data
from pellucid.data._spec import is_function
from pellucid.models._build import build_model
from pellucid.storage.store import Store
from pellucid.storage.weights import unpack_weights

__all__ = ["Run", "check_same_data", "load_data_of", "load_run"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished (or interrupted) run."""

    model: nn.Module
    """The model with its best weights, in eval mode, on the CPU."""
    config: Mapping[str, Any]
    """All flags and their values."""
    classes: tuple[str, ...]
    metrics: list[dict[str, Any]]
    """The records of metrics.jsonl, by epoch."""
    trust: bool = False
    """True if the user allows importing the functions that run.json names."""

    def _repr_html_(self) -> str:
        """Return model, data, settings and scores as HTML for notebooks."""
        best = [line for line in self.metrics if line.get("best")]
        facts = [
            ("test accuracy", _percent(best[-1].get("test_accuracy")) if best else None),
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


def load_run(folder: str | Path, *, trust: bool = False) -> Run:
    """Load the run in a save folder, with its best weights.

    The weights are stored as safetensors, which cannot execute code. A model given as MODULE:FUNCTION, however, is
    built by importing and calling that function, which needs `trust=True`: pass it only for folders whose origin you
    trust.

    Raises `SaveError` if the folder holds no run or no weights, `ConfigError` if `trust` is needed, and `ModelError` if
    the weights do not fit the model, whose code may have changed since.
    """
    store = Store(Path(folder))
    store.check_run("run.json")
    store.check_run("models/best.safetensors")
    record, content = store.run(), store.read_model("best.safetensors")
    assert content is not None
    try:
        name, classes, config = record["model"]["name"], tuple(record["dataset"]["classes"]), record["config"]
        channels, height, width = record["dataset"]["image_shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise SaveError(
            f"{folder}/run.json is damaged or not a run's record ({type(error).__name__}: {error})."
        ) from error
    check_trusted("model", name, folder, trust)
    with isolated(takes_turns=False):  # weights created in inference mode could never be differentiated
        model = _filled_model(name, (channels, height, width), len(classes), unpack_weights(content), folder)
    remember_origin(model, Origin((channels, height, width), Path(folder)))
    return Run(model.eval(), config, classes, store.metrics(), trust)


def _filled_model(
    name: str, image_shape: tuple[int, int, int], classes: int, weights: Mapping[str, Tensor], folder: str | Path
) -> nn.Module:
    """Build the model and load its weights."""
    message = f"the weights in {folder} do not fit the model {name}, whose code may have changed"
    if not is_function_name(name):
        # A damaged image shape could ask for any amount of memory; on this device, tensors have a shape and no memory.
        with torch.device("meta"):
            expected = build_model(name, image_shape, classes).state_dict()
        shapes, saved = ({key: value.shape for key, value in tensors.items()} for tensors in (expected, weights))
        if shapes != saved:
            raise ModelError(f"{message}: their shapes differ from those for images of shape {image_shape}.")
    model = build_model(name, image_shape, classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{message}: {error}") from error
    return model


def load_data_of(
    folder: str | Path, run: Run, data_dir: Path | None = None, mirrors: tuple[str, ...] = ()
) -> DataSplits:
    """Load the data set that the run in `folder` was trained on.

    Raises `SaveError` if it has changed since, and `ConfigError` for a function if the run was loaded without `trust`.
    """
    folder, settings = Path(folder), run.config
    recorded = Store(folder).run()["dataset"]
    request = Request(
        folder=(data_dir or Path(settings.get("data_dir") or folder / "data")).expanduser(),
        mirrors=(*mirrors, *settings.get("mirror", ())),
        image_size=settings.get("image_size"),
        seed=int(settings.get("seed", 0)),
        max_megapixels=int(settings.get("max_megapixels", Request.max_megapixels)),
    )
    if is_function(recorded["name"]):
        check_trusted("data set", recorded["name"], folder, run.trust)
    limits = {name: settings.get(name) for name in ("limit_train", "limit_test")}
    data = load_data(recorded["name"], request, **limits)
    check_same_data(data, recorded, "or train again")
    return data


def check_same_data(data: DataSplits, recorded: Mapping[str, Any], other_way: str) -> None:
    """Raise `SaveError` unless `data` has the checksum in `recorded`, the entry `dataset` of a run.json.

    `other_way` ends the message: what to do if the original files are gone.
    """
    if recorded.get("sha256") != data.sha256:
        raise SaveError(
            f"the data set {data.name} has changed since the run started: its checksum is {data.sha256[:12]}…, was "
            f"{str(recorded.get('sha256'))[:12]}…. Restore the original files, {other_way}."
        )
