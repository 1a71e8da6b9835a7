"""`pellucid.inspect`: all hooks and the report for a model that somebody else has trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.engine.wrapping import Network
from pellucid.run.observation import Options, observe
from pellucid.run.watcher import Watcher, shown
from pellucid.storage.runs import Run

__all__ = ["inspect", "show_model"]


def inspect(
    model: Network,
    data: Any,
    *,
    classes: Sequence[str] | None = None,
    save: str | Path = "save",
    training_data: Any = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocess: Any = None,
    hooks: str | Sequence[str] = "default",
    methods: str | Sequence[str] | None = None,
    embedding_layer: str | None = None,
    budget: str = "default",
    seed: int = 0,
    log_to: str | Sequence[str] = (),
) -> Run:
    """Run every hook on a trained model, and write pictures, TensorBoard logs and the report into a save folder.

    The arguments are those of `pellucid.watch`. An earlier run in the folder is moved to `previous/`. Prototypes and
    methods that are fitted to data need `training_data`. The model is left as it was.

    Returns a `Run` with the model, the class names and the metrics (epoch 0). Raises a `PellucidError` before any work
    if the model, the data or a choice is invalid.

    >>> import torch
    >>> from tempfile import mkdtemp
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    >>> run = inspect(model, (images, labels), classes=["cat", "dog"], save=mkdtemp(), hooks="confusion_matrix")
    end ...
    >>> run.metrics[0]["epoch"]
    0
    """
    options = Options(
        save=Path(save).expanduser(),
        classes=classes,
        training_data=training_data,
        preprocessing={"mean": mean, "std": std, "preprocess": preprocess},
        show=shown(hooks, methods, embedding_layer, budget, log_to),
        seed=seed,
    )
    return show_model(model, data, options)


def show_model(model: Network, data: Any, options: Options) -> Run:
    """Run the hooks of `options` on a model; see `inspect`."""
    observation = observe("inspect", model, data, options)
    with Watcher(observation) as watcher:
        watcher.open()
    store = observation.store
    return Run(observation.model, store.run()["config"], observation.classes, store.metrics())
