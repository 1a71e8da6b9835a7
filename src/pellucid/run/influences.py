"""`pellucid.influence`: score the training images of a run by their influence on predictions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from pellucid.core.contracts import DataSplits, to_floats
from pellucid.core.errors import ConfigError, DataError, SaveError, ShapeError
from pellucid.core.finite import check_inputs
from pellucid.core.isolation import isolated
from pellucid.core.options import Range, check_argument
from pellucid.core.origin import origin_of
from pellucid.diagnostics import Influence, tracin, trak
from pellucid.diagnostics._arguments import holds_integers
from pellucid.diagnostics._gradients import Explained, Weights
from pellucid.diagnostics._projection import Projection
from pellucid.diagnostics.influence import DEFAULT_PROJECTION, DEFAULT_RIDGE
from pellucid.engine.model import dtype_of, frozen
from pellucid.storage.runs import Run, load_data_of, load_run
from pellucid.storage.store import Store
from pellucid.storage.weights import unpack_weights

__all__ = ["influence"]

Method = Literal["trak", "tracin"]

IMAGES_PER_PASS = 500
ROUNDING = 1e-4
"""Distance by which pixels may exceed [0, 1]."""
ONLY_BEST = "The run kept only its best weights, which are used alone; train with --keep-checkpoints to use more."
LATEST = 3
"""Number of checkpoints of a run that TRAK uses by default, the last ones."""


def influence(
    run: Run | str | Path | Sequence[Run | str | Path],
    test_images: Tensor | Sequence[int],
    *,
    targets: Tensor | Sequence[int] | None = None,
    method: Method = "trak",
    epochs: Sequence[int] | None = None,
    projection: Projection | None = DEFAULT_PROJECTION,
    ridge: float = DEFAULT_RIDGE,
    data_dir: str | Path | None = None,
    mirrors: Sequence[str] = (),
) -> Influence:
    """Score the training images of a run by their influence on predictions.

    The training images are loaded again and verified by their checksum. A run keeps the checkpoints of all epochs if
    they take at most 20 MB, or with `--keep-checkpoints`. If it kept only the best weights, they are used alone, and
    `notes` says so.

    Args:
        run: a run from `load_run`, or its save folder; or several runs on the same training images, for TRAK.
        test_images: indices into the run's test images; or (image, channel, height, width) floats in [0, 1], or bytes.
        targets: the class of each image to explain (default: the class that the first run predicts).
        method: `trak` (default) uses the last three kept epochs of each run, and `tracin` all kept epochs, weighted by
            their learning rates; see `pellucid.diagnostics`.
        epochs: epochs whose checkpoints to use instead.
        projection: random projection of the gradients; None for exact gradients.
        ridge: ridge of TRAK, as a share of the mean eigenvalue.
        data_dir: folder of the data, if it has moved.
        mirrors: mirrors to try before those of the run.

    Raises `SaveError` if the run, its weights or its data cannot be loaded or have changed, `DataError` if several runs
    differ in their training images or the pixels are not in [0, 1], and `ConfigError` or `ShapeError` for invalid
    arguments.
    """
    check_argument("influence", "method", method, Method)
    check_argument("influence", "projection", projection, Projection | None)
    check_argument("influence", "ridge", ridge, Annotated[float, Range(0)])
    if epochs is not None:
        epochs = _epochs(epochs)
    sources = [_Source.of(one) for one in _runs(run)]
    if not sources:
        raise ConfigError("no run was given; pass a run or its save folder.")
    if method == "tracin" and len(sources) > 1:
        raise ConfigError(f"TracIn follows the training of one run, got {len(sources)} runs; use trak, or one run.")
    _check_same_images(sources)
    first = sources[0]
    data = load_data_of(first.folder, first.run, None if data_dir is None else Path(data_dir), tuple(mirrors))
    images = _images(test_images, data)
    classes = _targets(targets, images, first.run)
    train = (data.train.pixels, data.train.labels)
    if method == "tracin":
        chosen = first.kept_epochs() if epochs is None else list(epochs)
        states, rates = first.weights(chosen), first.learning_rates(chosen)
        result = tracin(first.run.model, states, *train, images, classes, learning_rates=rates, projection=projection)
    else:
        chosen_of = [(one, one.kept_epochs()[-LATEST:] if epochs is None else list(epochs)) for one in sources]
        states = [state for one, chosen in chosen_of for state in one.weights(chosen)]
        result = trak(first.run.model, states, *train, images, classes, projection=projection, ridge=ridge)
    is_alone = epochs is None and not any(one.store.kept_epochs() for one in sources)
    return replace(result, notes=(ONLY_BEST,) if is_alone else ())


@dataclass(frozen=True, eq=False)
class _Source:
    """A run and its save folder."""

    run: Run
    folder: Path
    store: Store

    @classmethod
    def of(cls, given: Run | str | Path) -> "_Source":
        run = given if isinstance(given, Run) else load_run(given)
        origin = origin_of(run.model)
        folder = Path(given) if isinstance(given, str | Path) else None if origin is None else origin.save
        if folder is None:
            raise ConfigError("the run's model has no save folder; pass the folder instead of a copy of the run.")
        return cls(run, folder, Store(folder))

    @property
    def best(self) -> int:
        """Epoch of the best weights, or that of the run if it was loaded with one."""
        if self.run.epoch is not None:
            return self.run.epoch
        marked = [int(line["epoch"]) for line in self.run.metrics if line.get("best")]
        if not marked:
            raise SaveError(f"the run in {self.folder} has finished no epoch.")
        return marked[-1]

    def kept_epochs(self) -> list[int]:
        """Return the trained epochs with weights, or the best one alone."""
        known = {int(line["epoch"]) for line in self.run.metrics}
        return [epoch for epoch in self.store.kept_epochs() if epoch > 0 and epoch in known] or [self.best]

    def weights(self, epochs: list[int]) -> list[Weights]:
        """Return the state dicts of some epochs; raises `SaveError` for those that were not kept."""
        if not epochs:
            raise ConfigError("epochs is empty; pass at least one epoch, or None.")
        # the best weights, which a run has even without checkpoints, are those of the loaded model
        loaded = self.best
        return [self.run.model.state_dict() if epoch == loaded else self._kept(epoch) for epoch in epochs]

    def _kept(self, epoch: int) -> Weights:
        content = self.store.read_model(self.store.kept_name(epoch))
        if content is None:
            kept = ", ".join(map(str, self.store.kept_epochs())) or "none"
            raise SaveError(
                f"the run in {self.folder} lacks the weights of epoch {epoch} (kept: {kept}; best: {self.best}). "
                "Train again with --keep-checkpoints."
            )
        return unpack_weights(content)

    def learning_rates(self, epochs: list[int]) -> list[float]:
        """Return the mean learning rate during each epoch: that of its first and its last step.

        The rate at the end alone would ignore the last epoch, since the schedule ends near zero.
        """
        read = {int(line["epoch"]): line.get("learning_rate") for line in self.run.metrics}
        rates = {epoch: float(rate) for epoch, rate in read.items() if isinstance(rate, int | float)}
        missing = [epoch for epoch in epochs if epoch not in rates]
        if missing:
            raise SaveError(
                f"the run in {self.folder} has no learning rate of epoch {missing[0]}; it has those of {sorted(rates)}."
            )
        return [(rates.get(epoch - 1, rates[epoch]) + rates[epoch]) / 2 for epoch in epochs]


def _check_same_images(sources: Sequence[_Source]) -> None:
    sums = [_dataset(source).get("sha256") for source in sources]
    if len(set(sums)) > 1:
        raise DataError(
            "the runs were trained on different images: their data sets have other checksums. Runs with other seeds "
            "hold out other validation images; call pellucid.diagnostics.trak with checkpoints of your own training."
        )


def _dataset(source: _Source) -> Mapping[str, Any]:
    record = source.store.run().get("dataset")
    return record if isinstance(record, Mapping) else {}


def _images(given: Any, data: DataSplits) -> Explained:
    """Return the images to explain; integers are indices into the test images."""
    if isinstance(given, Tensor) and given.ndim == 4:
        if given.shape[1:] != data.test.pixels.shape[1:]:
            raise ShapeError(
                f"images have shape {tuple(given.shape[1:])}, the run's {tuple(data.test.pixels.shape[1:])} (channel, "
                "height, width)."
            )
        if given.dtype != torch.uint8 and not given.is_floating_point():
            raise ShapeError(f"images have dtype {given.dtype}; pass floats in [0, 1] or bytes.")
        given = given.detach()
        check_inputs(given)
        is_inside = not given.numel() or -ROUNDING <= float(given.min()) <= float(given.max()) <= 1 + ROUNDING
        if given.is_floating_point() and not is_inside:
            raise DataError(
                f"the pixels range from {float(given.min()):.4g} to {float(given.max()):.4g}; pass floats in "
                "[0, 1], or bytes."
            )
        return given
    indices = _tensor(given, "test_images")
    if indices.dtype == torch.bool:
        raise ShapeError("test_images holds truth values; pass the indices of a mask, mask.nonzero()[:, 0].")
    if indices.ndim != 1 or not len(indices) or not holds_integers(indices):
        raise ShapeError(
            f"test_images has shape {tuple(indices.shape)} and dtype {indices.dtype}; pass images (image, channel, "
            "height, width) or a list of indices into the test images."
        )
    if int(indices.min()) < 0 or int(indices.max()) >= len(data.test):
        raise ShapeError(f"indices of test images are 0 to {len(data.test) - 1}, got {int(indices.min())} to "
                         f"{int(indices.max())}.")  # fmt: skip
    return data.test.pixels[indices.long()]


def _runs(given: Any) -> list[Run | str | Path]:
    runs = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for one in runs:
        if not isinstance(one, Run | str | Path):
            raise ConfigError(f"run is of type {type(one).__name__}; pass a run from load_run, or its save folder.")
    return runs


def _tensor(given: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{name} cannot be converted to a tensor ({error}); pass a list of integers.") from error


def _epochs(given: Any) -> list[int]:
    values = list(given) if isinstance(given, Iterable) else [given]
    if not isinstance(given, Iterable) or any(not isinstance(one, Integral) or isinstance(one, bool) for one in values):
        raise ConfigError(f"epochs is {given!r}; pass a list of epochs, such as [1, 2].")
    repeated = [one for one, count in Counter(values).items() if count > 1]
    if repeated:
        raise ConfigError(f"epochs lists epoch {repeated[0]} more than once; it would count twice.")
    return [int(one) for one in values]


def _targets(given: Any, images: Tensor, run: Run) -> Tensor:
    if given is not None:
        targets = _tensor(given, "targets")
        if not holds_integers(targets):
            raise ShapeError(f"targets has dtype {targets.dtype}; pass a class index for each image.")
        if targets.shape != images.shape[:1]:
            raise ShapeError(f"got targets of shape {tuple(targets.shape)} for {len(images)} images; pass one each.")
        return targets.long()
    with isolated(), frozen(run.model), torch.no_grad():
        parts = [run.model(to_floats(part).to(dtype_of(run.model))) for part in images.split(IMAGES_PER_PASS)]
    return torch.cat(parts).argmax(1)
