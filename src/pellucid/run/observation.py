"""A user's model and test data, checked and ready for the hooks, outside of pellucid's own training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.attribution import check_method
from pellucid.config import HookConfig
from pellucid.core.budget import Budget, find_budget
from pellucid.core.contracts import Metadata
from pellucid.core.errors import ConfigError, DataError, ModelError
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.ranges import Range
from pellucid.data._metadata import check_metadata, read_metadata
from pellucid.data._sample import Sample, sample_data
from pellucid.engine.model import check_model, device_of, dtype_of, frozen, unwrap
from pellucid.engine.tap import find_embedding
from pellucid.engine.wrapping import Network
from pellucid.hooks import Hook, Scene
from pellucid.models._adapted import adapted
from pellucid.models._build import count_parameters
from pellucid.models._preprocessing import choose_preprocessing, find_classes
from pellucid.run.given import channels_of
from pellucid.run.record import embedding_layer, environment, most_common_confusion, timestamp
from pellucid.run.session import choose_classes, choose_hooks
from pellucid.storage.densities import DensityStore
from pellucid.storage.loggers import check_loggers
from pellucid.storage.store import Store
from pellucid.training.evaluate import evaluate

__all__ = ["Observation", "Options", "observe"]

Kind = Literal["inspect", "watch"]

GIVEN = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
"""Metrics of a user's training loop that appear in the learning curves."""

LARGEST_ROUNDING = 1e-4
"""Largest distance from 1 of a sum of probabilities."""


@dataclass(frozen=True, eq=False)
class Options:
    """Options of `watch` and `inspect`; see their keyword arguments."""

    save: Path
    classes: Sequence[str] | None = None
    training_data: Any = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """`mean`, `std` and `preprocess`, and `image_size` and `crop` from the command line."""
    show: HookConfig = field(default_factory=HookConfig)
    seed: int = 0
    metadata: Any = None
    """Table with one row per test image: a file, columns or a data frame."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other flags of the command, for run.json."""
    known: Any = None
    """The `LoadedModel` of a model that a command has loaded."""


@dataclass(frozen=True, eq=False)
class Observation:
    """A model with its test images, ready for the hooks."""

    kind: Kind
    store: Store
    model: nn.Module
    """The user's model, without wrappers such as DistributedDataParallel."""
    seen: nn.Module
    """The model as hooks see it: from displayed images to a tensor of logits."""
    test: Sample
    train: Sample | None
    """Training images, for prototypes and fitted methods."""
    classes: tuple[str, ...]
    hooks: dict[str, Hook]
    budget: Budget
    preprocessing: Preprocessing
    options: Options
    metadata: Metadata | None = None
    """The rows of the user's table for the test images."""

    @cached_property
    def densities(self) -> DensityStore | None:
        """Densities of the training images, kept in the save folder; None without training images."""
        if self.train is None:
            return None
        return DensityStore(self.train.images.pixels, self.options.seed, self.store.folder, device=self.device)

    @property
    def device(self) -> torch.device:
        """Current device of the model, since a user may move it between epochs."""
        return device_of(self.model)

    def logits(self) -> Tensor:
        """Return the logits of all test images, on the CPU, in float32. Raises `ModelError` if the model fails."""
        check_precision(self.model)
        try:
            # autocast would round them; the weights themselves are in float32
            with isolated(), frozen(self.seen):
                logits = evaluate(self.seen, self.test.images, self.device)
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"the model cannot map images of shape {self.test.images.image_shape} (channel, height, width) to "
                f"logits: {type(error).__name__}: {error}"
            ) from error
        if logits.ndim != 2 or logits.shape[1] != len(self.classes):
            raise ModelError(
                f"the model returns outputs of shape {tuple(logits.shape)} for {len(logits)} images and "
                f"{len(self.classes)} classes; it must return one logit per class."
            )
        if logits.isnan().any():
            count = int(logits.isnan().any(1).sum())
            raise ModelError(f"the model returns NaN for {count:,} of {len(logits):,} test images.")
        return logits

    def scene(self, epoch: int, logits: Tensor) -> Scene:
        """Return the input of the hooks after an epoch."""
        show, densities = self.options.show, self.densities
        return Scene(
            epoch=epoch,
            model=self.seen,
            device=self.device,
            test=self.test.images,
            logits=logits,
            classes=self.classes,
            data_title=self.test.title,
            seed=self.options.seed,
            chosen_classes=choose_classes(show.classes, self.classes),
            methods=tuple(show.methods.split(",")) if show.methods else None,
            embedding_layer=show.embedding_layer,
            train=None if self.train is None else self.train.images,
            fitted=None if densities is None else densities.get,
            budget=self.budget,
            metadata=self.metadata,
            moment=self.moment(epoch),
        )

    def moment(self, epoch: int) -> str:
        """Return the stage of training for titles; empty for a model trained elsewhere."""
        if self.kind == "inspect":
            return ""
        return f"epoch {epoch}" + (" (before training)" if epoch == 0 else "")

    def metrics(self, epoch: int, logits: Tensor, given: Mapping[str, float], weights: str) -> dict[str, Any]:
        """Return an epoch's line of metrics.jsonl; losses in nats, accuracies from 0 to 1.

        `given` are the metrics of the user's loop, `weights` is the checksum by which a restart finds its epoch.
        """
        labels = self.test.images.labels
        confusion = most_common_confusion(logits, labels, self.classes)
        others = {name: value for name, value in given.items() if name not in GIVEN}
        return {
            "epoch": epoch,
            **{name: given.get(name) for name in GIVEN[:4]},
            "test_loss": F.cross_entropy(logits.double(), labels).item(),
            "test_accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "learning_rate": given.get("learning_rate"),
            "best": False,  # the watcher keeps no weights, so no checkpoint is the best
            **({"most_common_confusion": confusion} if confusion else {}),
            **({"given": others} if others else {}),
            "weights": weights,
        }

    def record(self) -> dict[str, Any]:
        """Return the content of run.json at the start."""
        test, train, known = self.test, self.train, self.options.known
        # everything after the size of the sample is unusual, such as pixels of unknown scale
        sample, _, remarks = test.notice.partition("; ")
        own = {"seed": self.options.seed, "save": str(self.store.folder)}
        return {
            "kind": self.kind,
            "config": {**asdict(self.options.show), **self.options.settings, **own},
            **environment(self.options.seed, self.device),
            "dataset": {
                "requested": test.name,
                "name": test.name,
                "title": test.title,
                "sample": sample,
                "notice": "; ".join(filter(None, (remarks, getattr(known, "notice", "")))) or None,
                "train_images": None if train is None else len(train.images),
                "validation_images": None,
                "test_images": len(test.images),
                "image_shape": list(test.images.image_shape),
                "classes": list(self.classes),
                "sha256": test.sha256,
            },
            "model": {
                "name": type(self.model).__name__ if known is None else known.name,
                "weights": None if known is None else known.weights,
                "parameters": count_parameters(self.model),
                "embedding_layer": embedding_layer(self.seen, test.images, self.options.show.embedding_layer),
                "preprocessing": self._preprocessing(),
            },
            **({} if self.metadata is None else {"metadata": self.metadata.record()}),
            "budget": self.budget.name,
            "test_accuracy": None,
            "timing": {"started": timestamp(), "finished": None},
        }

    def _preprocessing(self) -> dict[str, Any]:
        steps, scale = self.preprocessing, self.test.images.scale
        return {
            "mean": None if steps.mean is None else list(steps.mean),
            "std": None if steps.std is None else list(steps.std),
            "source": steps.source or None,
            "scale": list(scale),
        }


def observe(kind: Kind, model: Network, data: Any, options: Options) -> Observation:
    """Check and prepare everything, without writing a file.

    Raises a `PellucidError` if the model, the data, the class names or a choice is invalid.
    """
    show = options.show
    check_argument(kind, "seed", options.seed, Annotated[int, Range(0)])
    hooks = choose_hooks(show.hooks, has_metadata=options.metadata is not None, has_recordings=False)
    check_metadata(options.metadata)
    for method in show.methods.split(",") if show.methods else ():
        check_method(method)
    check_loggers(show.log_to)
    budget = find_budget(show.budget or "default")
    inside = unwrap(model)
    if not isinstance(inside, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; expected a torch.nn.Module.")
    check_model(inside)
    check_precision(inside)
    chosen = choose_preprocessing(inside, getattr(options.known, "preprocessing", None), **options.preprocessing)
    # any other callable cannot be undone for display
    steps = chosen if isinstance(chosen, Preprocessing) else Preprocessing()
    # the order of the logits: the user's own names, otherwise those that the model knows
    names = _listed(options.classes) or getattr(options.known, "classes", None) or find_classes(inside)
    channels = channels_of(inside, chosen)
    needs = {"channels": channels if channels in (1, 3) else None}  # of pictures, which are gray or RGB
    test = _sampled(data, budget.images, chosen, names, options.seed, **needs)
    train = None
    if options.training_data is not None:
        train = _sampled(options.training_data, budget.images, chosen, names, options.seed, kind="training", **needs)
        if train.images.image_shape != test.images.image_shape:
            raise DataError(
                f"the training images have the shape {train.images.image_shape}, the test images "
                f"{test.images.image_shape} (channel, height, width); use one shape."
            )
    metadata = _metadata(options.metadata, test)
    seen = adapted(inside, steps)
    classes = _class_names(seen, test, names or test.classes)
    if show.embedding_layer is not None:
        sample = test.images.floats(slice(2)).to(device_of(seen), dtype_of(seen))
        find_embedding(seen, sample, show.embedding_layer).read(sample)
    choose_classes(show.classes, classes)  # report an unknown name now rather than in the first hook
    store = Store(options.save)
    return Observation(kind, store, inside, seen, test, train, classes, hooks, budget, steps, options, metadata)


def _metadata(table: Any, test: Sample) -> Metadata | None:
    """Return the rows of a user's table for the sampled images. Raises `ConfigError` for a sample of a stream."""
    if table is None:
        return None
    if test.indices is None or test.total is None:
        raise ConfigError(
            f"{test.name} is a stream, whose images cannot be matched with the rows of the metadata; pass a data set "
            "with a length and items by index, or omit the metadata."
        )
    return read_metadata(table, test.indices, test.total, f"images of {test.name}")


def _listed(names: Any) -> Sequence[str] | None:
    """Return class names; raises `ConfigError` for a text or a dict, which would be taken apart."""
    if isinstance(names, str | Mapping):
        raise ConfigError(f"classes is {names!r:.80}; expected a list of names, in the order of the logits.")
    return None if names is None else tuple(names)


def _sampled(data: Any, limit: int, steps: Any, names: Sequence[str] | None, seed: int, **kind: Any) -> Sample:
    classes = None if names is None else tuple(map(str, names))
    return sample_data(data, limit=limit, preprocessing=steps, classes=classes, seed=seed, **kind)


def check_precision(model: nn.Module) -> None:
    """Raise `ModelError` for weights in half precision, whose relevance and derivatives are off by several percent."""
    dtype = dtype_of(model)
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"the model's weights are {dtype}; explanations need float32. Train with autocast, which keeps the weights "
            "in float32, or pass a copy: copy.deepcopy(model).float()."
        )


def _class_names(seen: nn.Module, test: Sample, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return one name per logit. Raises `DataError` if their number differs, or a label has no logit."""
    # a batch of two, because some models reject a single image even in eval mode
    sample = test.images.floats(slice(2)).to(device_of(seen), dtype_of(seen))
    try:
        with isolated(), frozen(seen), torch.no_grad():
            outputs = seen(sample)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the model cannot map images of shape {tuple(sample.shape)} (image, channel, height, width) to logits: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(sample):
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ModelError(
            f"the model returned {got} for images of shape {tuple(sample.shape)}; it must return logits of shape "
            f"({len(sample)}, classes)."
        )
    count = outputs.shape[1]
    if count < 2:
        raise ModelError("the model returns a single logit; hooks need at least two classes.")
    if bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < LARGEST_ROUNDING).all()):
        raise ModelError(
            "the model returns probabilities, which sum to 1; it must return logits. Pass it without its softmax."
        )
    if names is not None and len(names) != count:
        raise DataError(
            f"there are {len(names)} class names for {count} logits; give one name per logit of the model, in order."
        )
    highest = int(test.images.labels.max())
    if highest >= count:
        raise DataError(
            f"the labels go up to {highest}, but the model has {count} logits; labels must be from 0 to {count - 1}."
        )
    return tuple(str(index) for index in range(count)) if names is None else tuple(map(str, names))
