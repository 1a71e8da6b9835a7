"""`pellucid.inspect`: all hooks and the report for a model trained elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.config import InspectConfig
from pellucid.core.isolation import preserved_random_state
from pellucid.core.terminal import print_line
from pellucid.data._lazy import OpenData
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data
from pellucid.data._source import Request
from pellucid.engine.wrapping import Network
from pellucid.models._class_names import read_class_names
from pellucid.models._library import LoadedModel
from pellucid.models._preprocessing import choose_preprocessing
from pellucid.run.console import open_report, print_summary
from pellucid.run.observation import Observation, Options, observe
from pellucid.run.session import choose_device, set_threads
from pellucid.run.watcher import Watcher, shown
from pellucid.storage.models import load_model
from pellucid.storage.ownership import check_ours
from pellucid.storage.runs import Run
from pellucid.storage.store import Store
from pellucid.training.distributed import World

__all__ = ["inspect", "inspect_from", "prepare_inspection", "show"]


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
    metadata: Any = None,
    seed: int = 0,
    log_to: str | Sequence[str] = (),
) -> Run:
    """Run every hook on a trained model, and write figures, TensorBoard logs and the report into a save folder.

    The arguments are those of `pellucid.watch`. An earlier run in the folder is moved to `previous/`. Prototypes and
    methods that are fitted to data need `training_data`. The model is left unchanged.

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
        metadata=metadata,
        seed=seed,
    )
    with preserved_random_state():  # reading the data may draw random numbers
        observation = observe("inspect", model, data, options)
    return show(observation)


def show(observation: Observation) -> Run:
    """Run the hooks on an observed model, write the report and return the run."""
    with Watcher(observation) as watcher:
        watcher.open()
    store = observation.store
    return Run(observation.model, store.run()["config"], observation.classes, store.metrics())


def inspect_from(config: InspectConfig) -> int:
    """Do the work of `pellucid inspect` and return the exit code: 0, or 1 if a hook failed.

    Raises a `PellucidError` before any work if the model, the data or a setting is invalid.
    """
    device = choose_device(config.device, World())
    check_ours(config.save)  # check the folder before downloading anything into it
    loaded, data, options = prepare_inspection(config)
    if loaded.notice:
        print_line(f"Notice: {loaded.notice}")
    observation = observe("inspect", loaded.model.to(device), data.test, options)
    set_threads(config.threads, observation.test.images.image_shape)
    show(observation)
    store = Store(config.save)
    print_summary(store)
    if config.open:
        open_report(store)
    return int(bool(store.manifest()["failures"]))


def prepare_inspection(config: InspectConfig) -> tuple[LoadedModel, OpenData, Options]:
    """Load the model and open the data that the settings name, without writing anything but downloads.

    Raises a `PellucidError` if the model or the data is invalid.
    """
    names = read_class_names(config.network.class_names) if config.network.class_names else None
    request = Request(
        folder=(config.data_dir or config.save / "data").expanduser(),
        mirrors=config.mirror,
        # the model's preprocessing resizes the images
        image_size=None,
        seed=config.seed,
        max_megapixels=config.max_megapixels,
    )
    data = open_data(config.dataset, request)
    known = names or data.test.classes
    given = {"image_size": config.image_size, "crop": config.network.crop}
    loaded = load_model(
        config.model,
        weights=config.network.weights,
        image_shape=_image_shape(data, given),
        classes=None if known is None else len(known),
        seed=config.seed,
        trust=config.trust,
    )
    mean, std = config.network.normalization
    settings = {name: value for name, value in vars(config).items() if name not in ("network", "show", "open", "trust")}
    options = Options(
        save=config.save,
        classes=names,
        training_data=data.train,
        preprocessing={"mean": mean, "std": std, **given},
        show=config.show,
        metadata=config.show.metadata,
        seed=config.seed,
        settings={name: str(one) if isinstance(one, Path) else one for name, one in settings.items()}
        | vars(config.network),
        known=loaded,
    )
    return loaded, data, options


def _image_shape(data: OpenData, given: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return the shape of the test images, by which built-in networks are built; None for a stream."""
    if data.test.total is None:
        return None
    steps = choose_preprocessing(nn.Identity(), **given)
    return sample_data(data.test, limit=1, preprocessing=steps).images.image_shape
