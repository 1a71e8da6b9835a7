"""Open what a run left behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.artifacts.store import Store
from pellucid.artifacts.weights import unpack_weights
from pellucid.core.errors import ModelError, SaveError
from pellucid.core.isolation import isolated
from pellucid.core.origin import Origin, remember_origin
from pellucid.models._build import build_model

__all__ = ["Run", "load_run"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished (or interrupted) run."""

    model: nn.Module
    """With the best weights, in eval mode, on the CPU."""
    config: Mapping[str, Any]
    """Every flag and its value."""
    classes: tuple[str, ...]
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl, by epoch."""


def load_run(folder: str | Path) -> Run:
    """The run in a save folder, with its best weights.

    Weights are read as safetensors, which run no code; but a model that was MODULE:FUNCTION is built by calling that
    function, so load only runs whose code you trust.

    Raises `SaveError` for a folder that holds no run or no weights, and `ModelError` where the weights do not fit
    the model, whose code may have changed since.
    """
    store = Store(Path(folder))
    record, content = store.run(), store.read_model("best.safetensors")
    if not record or content is None:
        missing = "run.json" if not record else "models/best.safetensors"
        raise SaveError(f"{folder} holds no run: there is no {missing}; give the --save folder of `python runner.py`.")
    try:
        name, classes, config = record["model"]["name"], tuple(record["dataset"]["classes"]), record["config"]
        channels, height, width = record["dataset"]["image_shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise SaveError(f"{folder}/run.json is damaged or not a run's: {error} is not as it should be.") from error
    with isolated(takes_turns=False):  # weights made in inference mode could never be differentiated
        model = build_model(name, (channels, height, width), len(classes))
        try:
            model.load_state_dict(unpack_weights(content))
        except RuntimeError as error:
            raise ModelError(f"the weights in {folder} do not fit the model {name}: {error}") from error
    remember_origin(model, Origin((channels, height, width), Path(folder)))
    return Run(model.eval(), config, classes, store.metrics())
