"""Training dynamics: which training images are easy, ambiguous or hard, and when each class was learned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.diagnostics import ClassLearning, TrainingDynamics, class_learning, training_dynamics
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out, missing_recording
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.plots._text import class_names
from pellucid.plots.data_map import Corner, data_map
from pellucid.plots.learning_curves import Learned, learning_curves
from pellucid.storage.recordings import Recorded

__all__ = ["Dynamics"]

SHOWN_CLASSES = 12
"""Maximum number of classes with a learning curve."""
EVENTS = 5
"""Images with at least this many forgetting events are counted together."""


@HOOKS.register("dynamics")
@dataclass(frozen=True)
class Dynamics(Hook):
    """Data map of a sample of the training images, their forgetting events, and when each class was learned."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    needs_recording: ClassVar[bool] = True

    images: int = 6
    """Maximum number of images of each corner of the data map."""
    threshold: float = 0.9
    """Accuracy on the images of a class at which it counts as learned; above 0 and at most 1."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the data map with the images at its corners, the learning of each class, and the values of all images.

        The first artifact has the arrays `indices` of the sampled training images, `confidence`, `variability`,
        `correctness`, `forgetting_events` and `first_learned` (a row of `moments`, −1 for never), and `moments` in
        epochs. The second, `images`, has the thumbnails of the corners. The third, `classes`, has the accuracy of every
        class (moment, class) and the rows at which it is learned. The fourth, `training`, has the same values as the
        first for all training images, from their predictions in the training steps.
        """
        reason = missing_recording(scene)
        if reason is not None or scene.recorded is None or scene.train is None:
            yield left_out(scene, reason or "there are no training images")
            return
        recorded, labels = scene.recorded, scene.recorded.labels
        if not torch.equal(labels, scene.train.labels):
            yield left_out(scene, "the recordings belong to other training images")
            return
        own = labels[recorded.sample]
        dynamics = training_dynamics(recorded.sample_probabilities, recorded.sample_predictions, own)
        yield from self._map(scene, dynamics)
        yield self._classes(
            scene,
            dynamics,
            class_learning(recorded.sample_predictions, own, len(scene.classes), threshold=self.threshold),
        )
        every = training_dynamics(recorded.probabilities, recorded.predictions, labels)
        yield Artifact(
            caption=f"{_title(scene)} of all {len(labels):,} training images, from their predictions in the training "
            f"steps of {_count(len(recorded.epochs), 'epoch')}.",
            name="training",
            arrays=_arrays(every),
            numbers=_summary(every),
        )

    def _map(self, scene: Scene, dynamics: TrainingDynamics) -> Iterable[Artifact]:
        recorded, train = _given(scene)
        corners = {
            "hard": dynamics.hardest(self.images),
            "ambiguous": dynamics.most_ambiguous(self.images),
            "easy": dynamics.easiest(self.images),
        }
        tiles = {name: thumbnails(train[recorded.sample[rows]], PAGE_SIDE) for name, rows in corners.items()}
        details = {name: _details(recorded, dynamics, rows) for name, rows in corners.items()}
        names, title = class_names(scene.classes, 20), _title(scene)
        subtitle = (
            f"{len(recorded.sample):,} of {len(train):,} training images, predicted {_moments(recorded)}. "
            "Below each image: label, then → the most frequent prediction if it is another; confidence ± variability."
            f"{scene.scale_note}"
        )
        points = torch.stack([dynamics.variability, dynamics.confidence], 1)
        seen = dynamics.observations > 0
        yield Artifact(
            caption=f"{title}: confidence and variability of {subtitle[0].lower()}{subtitle[1:]}",
            figure=data_map(
                points[seen].numpy(),
                dynamics.correctness[seen].numpy(),
                [Corner(_heading(name), tiles[name], _captions(details[name], names)) for name in corners],
                (f"{title}: data map", subtitle),
            ),
            arrays={
                "indices": recorded.sample.int().numpy(),
                "moments": recorded.moments.numpy(),
                **_arrays(dynamics),
            },
            numbers={**_summary(dynamics), "corners": details},
        )
        yield Artifact(
            caption=f"{title}: images at the corners of the data map ({', '.join(corners)}).",
            name="images",
            arrays=tiles,
            numbers=details,
        )

    def _classes(self, scene: Scene, dynamics: TrainingDynamics, learning: ClassLearning) -> Artifact:
        recorded, _ = _given(scene)
        shown = _shown(scene, learning)
        times = recorded.moments
        counts = recorded.labels[recorded.sample].bincount(minlength=len(scene.classes))
        title = f"{_title(scene)}: when each class was learned"
        choice = (
            ""
            if len(shown) == int((counts > 0).sum())
            else (
                f" Shows {len(shown)} of {len(scene.classes):,} classes, those learned last."
                if scene.chosen_classes is None
                else f" Shows {len(shown)} selected classes."
            )
        )
        subtitle = (
            f"{len(recorded.sample):,} training images, predicted {_moments(recorded)}; "
            f"{int(counts[counts > 0].min())} to {int(counts.max())} per class. Bands and lines: 95% intervals.{choice}"
        )
        return Artifact(
            caption=f"{title}. {subtitle}",
            name="classes",
            figure=learning_curves(self._learned(scene, learning, shown), _events(dynamics), (title, subtitle)),
            arrays={name: getattr(learning, name).numpy() for name in ("accuracy", "low", "high")}
            | {"moments": times.numpy()},
            numbers={
                "classes": list(scene.classes),
                "images": counts.tolist(),
                "threshold": self.threshold,
                **{name: _times(getattr(learning, name), times) for name in ("learned", "earliest", "latest")},
            },
        )

    def _learned(self, scene: Scene, learning: ClassLearning, shown: list[int]) -> Learned:
        """Return the learning of the classes to show."""
        recorded, _ = _given(scene)
        return Learned(
            names=[scene.classes[label] for label in shown],
            times=recorded.moments.numpy(),
            accuracy=learning.accuracy[:, shown].numpy(),
            low=learning.low[:, shown].numpy(),
            high=learning.high[:, shown].numpy(),
            learned=learning.learned[shown].numpy(),
            earliest=learning.earliest[shown].numpy(),
            latest=learning.latest[shown].numpy(),
            threshold=self.threshold,
        )


def _given(scene: Scene) -> tuple[Recorded, ImageSet]:
    """Return the recording and the training images, which `run` has checked."""
    assert scene.recorded is not None
    assert scene.train is not None
    return scene.recorded, scene.train


def _title(scene: Scene) -> str:
    return f"{scene.data_title}, training dynamics over {_count(scene.epoch, 'epoch')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _moments(recorded: Recorded) -> str:
    return f"{_count(len(recorded.moments), 'time')} during training"


def _heading(name: str) -> str:
    meanings = {"hard": "lowest confidence", "ambiguous": "highest variability", "easy": "highest confidence"}
    return f"{name}: {meanings[name]}"


def _arrays(dynamics: TrainingDynamics) -> dict[str, np.ndarray]:
    values = {name: getattr(dynamics, name) for name in ("confidence", "variability", "correctness")}
    counts = {name: getattr(dynamics, name).int() for name in ("forgetting_events", "first_learned", "observations")}
    return {name: one.numpy() for name, one in (values | counts).items()}


def _summary(dynamics: TrainingDynamics) -> dict[str, Any]:
    """Return the numbers of images that were learned, forgotten or never learned, and means over the images."""
    seen = dynamics.observations > 0
    learned = dynamics.is_learned & seen
    return {
        "images": int(seen.sum()),
        "mean_confidence": _mean(dynamics.confidence[seen]),
        "mean_variability": _mean(dynamics.variability[seen]),
        "never_learned": int((seen & ~learned).sum()),
        "unforgettable": int((dynamics.is_unforgettable & seen).sum()),
        "forgotten": int((dynamics.forgetting_events > 0).sum()),
        "forgetting_events": dict(_events(dynamics)),
    }


def _mean(values: Tensor) -> float | None:
    return round(float(values.double().mean()), 6) if len(values) else None


def _events(dynamics: TrainingDynamics) -> list[tuple[str, int]]:
    """Return the number of learned images by their forgetting events, and of those that were never learned."""
    learned = dynamics.is_learned & (dynamics.observations > 0)
    counts = dynamics.forgetting_events[learned].clamp(max=EVENTS).bincount(minlength=EVENTS + 1).tolist()
    never = int(((dynamics.observations > 0) & ~learned).sum())
    return [
        *((str(number), count) for number, count in enumerate(counts[:-1])),
        (f"≥{EVENTS}", counts[-1]),
        ("never learned", never),
    ]


def _details(recorded: Recorded, dynamics: TrainingDynamics, rows: Tensor) -> dict[str, list[Any]]:
    """Return the index, label, most frequent prediction and dynamics of the sampled images at `rows`, as lists."""
    indices, predictions = recorded.sample[rows], recorded.sample_predictions[:, rows].long()
    common = [int(one[one >= 0].mode().values) for one in predictions.T]
    return {
        "indices": indices.tolist(),
        "labels": recorded.labels[indices].tolist(),
        "predictions": common,
        "forgetting_events": dynamics.forgetting_events[rows].tolist(),
        **{
            name: [round(value, 6) for value in getattr(dynamics, name)[rows].tolist()]
            for name in ("confidence", "variability", "correctness")
        },
    }


def _captions(details: Mapping[str, list[Any]], names: list[str]) -> list[tuple[str, str]]:
    keys = ("labels", "predictions", "confidence", "variability")
    return [
        (
            names[label] if label == prediction else f"{names[label]} → {names[prediction]}",
            f"{confidence:.2f} ± {variability:.2f}",
        )
        for label, prediction, confidence, variability in zip(*(details[key] for key in keys), strict=True)
    ]


def _shown(scene: Scene, learning: ClassLearning) -> list[int]:
    """Return the classes with images to show: the selected ones, or those learned last, the latest at the bottom."""
    mean = learning.accuracy.double().nanmean(0)  # NaN for a class without images
    wanted = range(len(scene.classes)) if scene.chosen_classes is None else scene.chosen_classes
    order = sorted((label for label in wanted if not mean[label].isnan()), key=lambda label: -float(mean[label]))
    return order[-SHOWN_CLASSES:]


def _times(rows: Tensor, moments: Tensor) -> list[float | None]:
    """Return the moments of rows in epochs; None for −1."""
    return [None if row < 0 else round(float(moments[row]), 6) for row in rows.tolist()]
