"""Predictions on training images, recorded while a run trains: written once per epoch, read on first use."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pellucid.core.errors import SaveError
from pellucid.core.types import Labels
from pellucid.storage.reading import unpack_arrays
from pellucid.storage.store import Store
from pellucid.training.recording import Recording

__all__ = ["Recorded", "write_recording"]

KINDS = {
    "labels": ("iu", 1),
    "probabilities": ("f", 1),
    "predictions": ("iu", 1),
    "sample": ("iu", 1),
    "moments": ("iu", 1),
    "sample_probabilities": ("f", 2),
    "sample_predictions": ("iu", 2),
    "steps": ("iu", 0),
}
"""Kind of dtype and number of axes of each array in a file."""
OPTIONAL = {"sample_distributions": ("f", 3)}
"""The same for arrays that a file may lack."""


def write_recording(store: Store, recording: Recording, labels: Labels) -> None:
    """Write the recording of a finished epoch; `labels` are those of all training images."""
    content = {name: value for name, value in recording.content().items() if name != "epoch"}
    arrays = {name: np.asarray(value) for name, value in content.items()}
    store.write_recording(recording.epoch, {"labels": labels.numpy().astype(np.int32), **arrays})


@dataclass(frozen=True, eq=False)
class Recorded:
    """Predictions on training images, recorded while a run trained; read from its save folder on first use.

    Images are in the order of the training set. An epoch drops the incomplete last batch, whose images are not trained
    on: their prediction is −1 and their probability NaN. Probabilities are rounded to float16.

    All properties raise `SaveError` if a file is damaged.
    """

    store: Store

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The recorded epochs, in order."""
        return tuple(self.store.recorded_epochs())

    @property
    def labels(self) -> Tensor:
        """Label of each training image: (image,), int64."""
        return self._one("labels").long()

    @property
    def probabilities(self) -> Tensor:
        """Probability of the label in the training step of each image, before its update: (epoch, image), float32."""
        return self._stacked("probabilities")

    @property
    def predictions(self) -> Tensor:
        """Predicted class in the same steps: (epoch, image), int32."""
        return self._stacked("predictions")

    @property
    def sample(self) -> Tensor:
        """Indices of the training images that were also predicted several times per epoch: (sampled,), int64."""
        return self._one("sample").long()

    @property
    def moments(self) -> Tensor:
        """The times of these predictions, as numbers of finished epochs: (moment,), float32; 1.5 is within epoch 2."""
        times = [
            epoch - 1 + part["moments"] / part["steps"] for epoch, part in zip(self.epochs, self._parts, strict=True)
        ]
        return torch.cat(times).float()

    @property
    def sample_probabilities(self) -> Tensor:
        """Probability of the label, with the network in eval mode: (moment, sampled), float32."""
        return self._joined("sample_probabilities")

    @property
    def sample_predictions(self) -> Tensor:
        """Predicted class at the same times: (moment, sampled), int32."""
        return self._joined("sample_predictions")

    @property
    def sample_distributions(self) -> Tensor | None:
        """Probabilities of all classes: (moment, sampled, class), float32.

        None if they take more than 5 MB per epoch, as for 5,000 images and more than 62 classes.
        """
        has_all = all("sample_distributions" in part for part in self._parts)
        return self._joined("sample_distributions") if has_all else None

    def check(self, epochs: int) -> None:
        """Raise `SaveError` unless all epochs from 1 to `epochs` are recorded, and their files are intact."""
        missing = sorted({*range(1, epochs + 1)} - {*self.epochs})
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            raise SaveError(
                f"predictions on training images were not recorded in epoch{'s' * (len(missing) > 1)} {listed}; runs "
                "of earlier versions have none. Train again to record them."
            )
        _ = self._parts

    @cached_property
    def _parts(self) -> list[dict[str, Tensor]]:
        """The content of the files, by epoch."""
        if not self.epochs:
            raise SaveError(f"{self.store.folder} holds no recordings; train again to record the training.")
        parts = [self._read(epoch) for epoch in self.epochs]
        for epoch, part in zip(self.epochs, parts, strict=True):
            for name in ("labels", "sample", "steps"):
                if not torch.equal(part[name], parts[0][name]):
                    raise self._damaged(epoch, f"its {name} differ from those of epoch {self.epochs[0]}")
        classes = [part["sample_distributions"].shape[2] for part in parts if "sample_distributions" in part]
        if len(set(classes)) > 1:
            raise SaveError(
                f"the recordings in {self.store.folder} differ in their numbers of classes, "
                f"{min(classes)} to {max(classes)}; train again to record the training."
            )
        return parts

    def _read(self, epoch: int) -> dict[str, Tensor]:
        content = self.store.read(self.store.recording_name(epoch))
        if content is None:
            raise self._damaged(epoch, "it is missing")
        try:
            arrays = unpack_arrays(content)
        except ValueError as error:
            raise self._damaged(epoch, str(error)) from error
        if reason := _invalid(arrays):
            raise self._damaged(epoch, reason)
        kinds = KINDS | OPTIONAL
        return {name: _tensor(arrays[name]) for name in kinds if name in arrays}  # ignores anything else

    def _damaged(self, epoch: int, reason: str) -> SaveError:
        return SaveError(f"{self.store.folder / self.store.recording_name(epoch)} cannot be used: {reason}.")

    def _one(self, name: str) -> Tensor:
        return self._parts[0][name]

    def _stacked(self, name: str) -> Tensor:
        return _plain(torch.stack([part[name] for part in self._parts]))

    def _joined(self, name: str) -> Tensor:
        return _plain(torch.cat([part[name] for part in self._parts]))


def _tensor(array: np.ndarray) -> Tensor:
    """Return an array of a file as a tensor, whatever the size and byte order of its numbers."""
    number = np.int32 if array.dtype.kind in "iu" else np.float16 if array.dtype.itemsize == 2 else np.float32
    return torch.from_numpy(array.astype(number, order="C"))


def _plain(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def _invalid(arrays: dict[str, np.ndarray]) -> str | None:
    """Return the reason why arrays are not those of a recording; None if they are."""
    for name, (kind, axes) in (KINDS | OPTIONAL).items():
        if name in OPTIONAL and name not in arrays:
            continue
        if name not in arrays:
            return f"the array {name} is missing"
        if arrays[name].dtype.kind not in kind or arrays[name].ndim != axes:
            return f"{name} has dtype {arrays[name].dtype} and shape {arrays[name].shape}"
        if kind == "iu" and arrays[name].size and not -(2**31) <= arrays[name].min() <= arrays[name].max() < 2**31:
            return f"{name} has numbers beyond 32 bits"
    images, sampled = arrays["labels"].shape, (*arrays["moments"].shape, *arrays["sample"].shape)
    shapes = {"probabilities": images, "predictions": images, "sample_probabilities": sampled}
    shapes |= {"sample_predictions": sampled}
    if "sample_distributions" in arrays:
        shapes["sample_distributions"] = (*sampled, *arrays["sample_distributions"].shape[2:])
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"{name} has shape {arrays[name].shape}, expected {shape}"
    sample = arrays["sample"]
    if sample.size and (sample.min() < 0 or sample.max() >= len(arrays["labels"])):
        return f"its sample has indices outside 0…{len(arrays['labels']) - 1}"
    if arrays["labels"].size and arrays["labels"].min() < 0:
        return f"its labels go down to {arrays['labels'].min()}"
    steps, moments = int(arrays["steps"]), arrays["moments"].tolist()
    if steps <= 0:
        return f"steps is {steps}"
    is_ordered = moments == sorted(set(moments)) and not (moments and (moments[0] < 0 or moments[-1] > steps))
    return None if is_ordered else f"its moments are not in order within 0…{steps}"
