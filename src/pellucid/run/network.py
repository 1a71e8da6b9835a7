"""The network of a run: built or loaded by `--model`, with `--weights` and the normalization of its input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pellucid.config import RunConfig
from pellucid.core.contracts import DataSplits
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._adapted import adapted
from pellucid.models._build import build_model
from pellucid.models._class_names import check_class_count, read_class_names
from pellucid.models._spec import FUNCTION, LIBRARIES, REGISTERED, parse_spec
from pellucid.storage.models import load_model
from pellucid.storage.runs import Architecture

__all__ = ["Built", "build_network", "renamed"]

KEYS = ("name", "weights", "options", "preprocessing")
RGB = 3


@dataclass(frozen=True, eq=False)
class Built:
    """A network ready for training, from images in [0, 1] to logits."""

    model: nn.Module
    record: Mapping[str, Any]
    """Its entries in run.json: `name`, `weights`, `options` and `preprocessing`."""
    notice: str = ""

    @property
    def is_pretrained(self) -> bool:
        """True if training starts from trained weights."""
        return self.record["weights"] is not None


def build_network(config: RunConfig, data: DataSplits, earlier: Mapping[str, Any], *, is_restored: bool) -> Built:
    """Build the network that the settings name, for the classes and images of `data`.

    With `is_restored`, a checkpoint provides the weights, and the architecture is that in `earlier`, the run.json.
    Without trained weights and `--mean`, the network takes images in [0, 1]; otherwise it first normalizes them.
    """
    spec, options = config.training.model, config.network
    shape, classes, seed = data.train.image_shape, len(data.classes), config.training.seed
    recorded = earlier.get("model", {})
    if is_restored and "options" in recorded:
        model = Architecture.of(recorded).build(shape, classes, seed)
        return Built(model, {key: recorded.get(key) for key in KEYS})
    kind, _ = parse_spec(spec)
    mean, std = options.normalization
    if kind in (FUNCTION, REGISTERED) and options.weights is None and mean is None:
        return Built(build_model(spec, shape, classes, seed), dict.fromkeys(KEYS) | {"name": spec})
    loaded = load_model(
        spec,
        weights=options.weights,
        image_shape=shape,
        classes=classes,
        seed=seed,
        trust=config.trust,
        new_head=True,
    )
    steps = loaded.preprocessing or Preprocessing()
    if mean is not None:
        steps = Preprocessing(mean, std, source="--mean and --std")
    kind, _ = parse_spec(loaded.name)  # of `run:FOLDER`, the model of that run
    if kind in LIBRARIES:
        steps = _for_gray(steps, shape[0], loaded.options.get("in_chans", RGB))
    record = {"name": loaded.name, "weights": loaded.weights, "options": dict(loaded.options), "preprocessing": None}
    # networks of transformers are always wrapped, because their outputs are not tensors
    if steps.mean is None and kind != "hf":
        return Built(loaded.model.train(), record, loaded.notice)
    inside = Preprocessing(steps.mean, steps.std, source=steps.source)
    record["preprocessing"] = {"mean": _listed(inside.mean), "std": _listed(inside.std), "source": inside.source}
    return Built(adapted(loaded.model, inside).train(), record, loaded.notice)


def _for_gray(steps: Preprocessing, channels: int, expected: int) -> Preprocessing:
    """Return the normalization for gray data, which repeats the channel for a network that expects three."""
    mean, std = steps.mean or (0.0,), steps.std or (1.0,)
    if channels == 1 and expected == RGB:
        return replace(steps, mean=mean * (RGB // len(mean)), std=std * (RGB // len(std)))
    if expected == 1 and len(mean) > 1:  # its first layer has a single channel
        return replace(steps, mean=(sum(mean) / len(mean),), std=(sum(std) / len(std),))
    return steps


def _listed(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def renamed(data: DataSplits, path: str | None) -> DataSplits:
    """Return the data with the class names in the file `--class-names`."""
    if path is None:
        return data
    names = read_class_names(path)
    check_class_count(names, len(data.classes), f"--class-names {path}", data.name)
    return replace(data, classes=names)
