"""The models that `pellucid compare` names: weights, test images and predictions of a run, one of its epochs or an
inspection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, DataError, DownloadError, ModelError, SaveError
from pellucid.run.reopening import Access, reopen_inspection
from pellucid.storage.runs import load_data_of, load_run
from pellucid.storage.store import Store
from pellucid.training.evaluate import evaluate

__all__ = ["Loaded", "Outcome", "Reader", "parse_place"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions for test images, one value per image in each array."""

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    """Probability of the prediction."""
    losses: np.ndarray
    """Cross-entropy in nats."""

    def __getitem__(self, rows: np.ndarray) -> "Outcome":
        """Return the values of the images `rows`."""
        return Outcome(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model to compare, on its own test images."""

    folder: Path
    epoch: int | None
    """Epoch that was asked for; None for the best weights."""
    weights_epoch: int
    """Epoch of the weights."""
    record: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    classes: tuple[str, ...]
    outcome: Outcome
    positions: np.ndarray | None
    """Index of each image in the data set's test images; None if unknown."""
    model: nn.Module | None = None
    images: ImageSet | None = None
    """The test images; None, like the model, if the run cannot be opened."""
    notes: tuple[str, ...] = ()


def parse_place(text: str) -> tuple[Path, int | None]:
    """Return the folder and the epoch of RUN or RUN@EPOCH; a folder whose name ends in @EPOCH takes precedence.

    >>> parse_place("unknown@12")
    (PosixPath('unknown'), 12)
    """
    folder = Path(text).expanduser()
    match = re.fullmatch(r"(.+)@(\d+)", text)
    if folder.is_dir() or match is None:
        return folder, None
    return Path(match[1]).expanduser(), int(match[2])


@dataclass(frozen=True, eq=False)
class Reader:
    """Opens runs and keeps their data sets, which several runs may share."""

    device: torch.device
    access: Access
    """`trust`, `data_dir` and `mirror` for all runs."""
    _data: dict[str, ImageSet] = field(default_factory=dict)

    def read(self, place: str) -> Loaded:
        """Open the model that RUN or RUN@EPOCH names.

        If its data or weights are not available, its stored predictions are used, with a note. Raises `SaveError` if
        there are none, and `ConfigError` if opening it takes `--trust`.
        """
        folder, epoch = parse_place(place)
        store = Store(folder)
        store.check_run("run.json")
        record, metrics = store.run(), store.metrics()
        if not metrics:
            raise SaveError(f"the run in {folder} has not finished an epoch, so there is nothing to compare yet.")
        is_run = record.get("kind", "run") == "run"
        if epoch is not None and record.get("kind") == "inspect":
            raise ConfigError(f"{folder} is an inspection, which has no epochs; omit @{epoch}.")
        loaded = partial(
            Loaded,
            folder=folder,
            epoch=epoch,
            weights_epoch=_weights_epoch(folder, metrics, epoch),
            record=record,
            metrics=metrics,
        )
        try:
            opened = self._of_run(loaded, folder, epoch) if is_run else self._of_inspection(loaded, folder)
        except (SaveError, DataError, DownloadError, ModelError, _Program) as reason:
            stored = _stored(store, record, loaded.keywords["weights_epoch"])
            if stored is None:
                raise reason.error if isinstance(reason, _Program) else reason from None
            is_whole = is_run and record.get("config", {}).get("limit_test") is None
            return loaded(
                classes=tuple(record["dataset"]["classes"]),
                outcome=stored,
                positions=np.arange(len(stored.labels)) if is_whole else None,
                notes=(f"Only the stored predictions of {place} are compared, not its maps and layers: {reason}",),
            )
        return opened

    def _of_run(self, loaded: "partial[Loaded]", folder: Path, epoch: int | None) -> Loaded:
        run = load_run(folder, epoch=epoch, trust=self.access.trust)
        key = str(Store(folder).run()["dataset"].get("sha256"))
        if key not in self._data:
            self._data[key] = load_data_of(folder, run, self.access.data_dir, self.access.mirror).test
        images = self._data[key]
        positions = np.arange(len(images)) if run.config.get("limit_test") is None else None
        return self._opened(loaded, run.model, images, run.classes, positions)

    def _of_inspection(self, loaded: "partial[Loaded]", folder: Path) -> Loaded:
        record = loaded.keywords["record"]
        try:
            reopened = reopen_inspection(replace(self.access, folder=folder), record)
        except ConfigError as error:
            if "written by a Python program" in str(error):
                raise _Program(error) from error
            raise
        return self._opened(loaded, reopened.model, reopened.images, reopened.classes, np.array(reopened.indices))

    def _opened(
        self,
        loaded: "partial[Loaded]",
        model: nn.Module,
        images: ImageSet,
        classes: tuple[str, ...],
        positions: np.ndarray | None,
    ) -> Loaded:
        model = model.to(self.device)
        logits = evaluate(model, images, self.device).double()
        predictions = logits.argmax(1)
        outcome = Outcome(
            labels=images.labels.numpy(),
            predictions=predictions.numpy(),
            confidences=logits.softmax(1).gather(1, predictions[:, None])[:, 0].numpy(),
            losses=F.cross_entropy(logits, images.labels, reduction="none").numpy(),
        )
        return loaded(classes=classes, outcome=outcome, positions=positions, model=model, images=images)


class _Program(Exception):
    """A run whose model and data are only in the user's program."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error))
        self.error = error


def _weights_epoch(folder: Path, metrics: list[dict[str, Any]], epoch: int | None) -> int:
    """Return the epoch asked for, or that of the best weights; the last one for runs without best weights."""
    known = [int(line["epoch"]) for line in metrics]
    if epoch is not None and epoch not in known:
        raise SaveError(f"the run in {folder} has no epoch {epoch}: its epochs are {known[0]} to {known[-1]}.")
    best = [int(line["epoch"]) for line in metrics if line.get("best")]
    return epoch if epoch is not None else max(best, default=known[-1])


def _stored(store: Store, record: Mapping[str, Any], epoch: int) -> Outcome | None:
    """Read the predictions that the hook `confusion_matrix` stored; None if there are none."""
    wanted = ("confusion_matrix", "predictions", "arrays", epoch)
    for entry in store.manifest()["artifacts"]:
        if (entry["hook"], entry["name"], entry["kind"], entry["epoch"]) != wanted:
            continue
        arrays = store.read_arrays(entry["path"])
        if not isinstance(record.get("dataset", {}).get("classes"), list):
            return None
        try:
            outcome = Outcome(*(arrays[name] for name in ("labels", "predictions", "confidences", "losses")))
        except KeyError as error:
            raise SaveError(f"{store.folder / entry['path']} is damaged: {error} is missing.") from error
        if len({values.shape for values in vars(outcome).values()}) > 1 or outcome.labels.ndim != 1:
            raise SaveError(f"{store.folder / entry['path']} is damaged: its arrays differ in length.")
        return outcome
    return None
