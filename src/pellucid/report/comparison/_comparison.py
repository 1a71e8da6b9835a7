"""The numbers of a comparison of models, which its page shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.cards import card, facts_html
from pellucid.evaluation._classifiers import ImageDifference, SeedDifference

__all__ = ["Agreement", "Comparison", "Disagreements", "Model", "Pair", "Setting"]


MOST_POINTS = 2000
"""Maximum number of images in the embeddings, which bounds the size of the page."""


@dataclass(frozen=True, eq=False)
class Model:
    """One of the compared models."""

    name: str
    """Unique and short, such as `save` or `save, epoch 2`."""
    run: str
    """Name of its run, the same for all epochs of a run."""
    folder: Path
    epoch: int
    """Epoch of the weights."""
    seed: int | None
    setting: int
    """Position of its setting in `Comparison.settings`."""
    record: Mapping[str, Any]
    """Its run.json."""
    metrics: list[dict[str, Any]]
    predictions: np.ndarray
    """(image,): predicted class of each common test image."""
    confidences: np.ndarray
    """(image,): probability of the prediction."""
    losses: np.ndarray
    """(image,): cross-entropy in nats."""
    points: tuple[np.ndarray, np.ndarray] | None = None
    """Rows of the common test images with a t-SNE point, and the points (point, 2)."""


@dataclass(frozen=True)
class Setting:
    """Models that differ only in their seed."""

    name: str
    models: tuple[int, ...]
    """Positions of its models; one per seed."""


@dataclass(frozen=True, eq=False)
class Disagreements:
    """Test images that one model of a pair classifies correctly and the other does not, with maps of both."""

    rows: np.ndarray
    """(image,): rows of the common test images, those that only the first model gets right first."""
    classes: np.ndarray
    """(image, 2): the true class and the wrong prediction."""
    maps: tuple[np.ndarray, np.ndarray] | None
    """Quantized maps (image, class, height, width), int8, of the first and the second model."""
    scales: tuple[np.ndarray, np.ndarray] | None
    """Relevance that 127 represents, (image, class)."""
    limits: np.ndarray | None
    """(image,): relevance shown in full color, for all maps of an image."""


@dataclass(frozen=True)
class Agreement:
    """Mean rank correlation of two models' maps of the same images and classes, with its 95% interval."""

    method: str
    mean: float
    low: float
    high: float
    images: int


@dataclass(frozen=True, eq=False)
class Pair:
    """The first model and another one."""

    first: int
    second: int
    accuracy: ImageDifference
    p: float
    """p-value of `accuracy`, adjusted for the number of pairs (Holm, 1979)."""
    seeds: SeedDifference | None
    """Difference of the two settings over their seeds; None with one seed each, or for one setting."""
    seeds_p: float
    disagreements: Disagreements
    agreement: tuple[Agreement, ...] = ()
    layers: tuple[list[str], list[str], np.ndarray] | None = None
    """Names of both models' layers, and their linear CKA (layer of the first, layer of the second)."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences between models on the same test images: accuracy, predictions, explanations and layers.

    The first model is the reference: each pair is the first and another one. Differences are the first minus the
    other.
    """

    models: tuple[Model, ...]
    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]
    """Other settings than that of the first model come before other seeds."""
    classes: tuple[str, ...]
    title: str
    """Name of the data set."""
    labels: np.ndarray
    """(image,): true class of each common test image."""
    indices: np.ndarray
    """(image,): its index among the test images of the first model."""
    notes: tuple[str, ...] = ()
    method: str | None = None
    """Attribution method of the maps."""
    between_methods: Agreement | None = None
    """Agreement of different methods on the first model, for comparison."""
    between_seeds: tuple[Agreement, ...] = ()
    """Agreement of the first model with other seeds of its setting, for comparison."""
    explained_images: int = 0
    layer_images: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    """Methods that do not apply, with the reason."""
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`rows` and `source` (image, height, width, channel) of the images with maps, `point_rows` and `thumbnails` of
    those with points; bytes."""

    def correct(self, model: int) -> np.ndarray:
        """Return (image,): True where the model at this position is correct."""
        return np.asarray(self.models[model].predictions == self.labels)

    def accuracy(self, model: int) -> float:
        """Return the accuracy of the model at this position on the common test images."""
        return float(self.correct(model).mean())

    def point_rows(self) -> np.ndarray:
        """Return the rows of the common test images with a t-SNE point of any model, or of the first, if too many."""
        known = [model.points[0] for model in self.models if model.points is not None]
        rows = np.unique(np.concatenate(known)) if known else np.zeros(0, int)
        return rows if len(rows) <= MOST_POINTS else np.unique(known[0])[:MOST_POINTS]

    def verdict(self) -> list[str]:
        """Return the conclusions as sentences; a difference is claimed only where a test supports it."""
        from pellucid.report.comparison._verdict import verdict

        return [sentence.text for sentence in verdict(self)]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON-compatible values, without pixels and maps; non-finite numbers become None."""
        record = {
            "data": self.title,
            "images": len(self.labels),
            "verdict": self.verdict(),
            "models": [
                {
                    "name": model.name,
                    "folder": str(model.folder),
                    "epoch": model.epoch,
                    "seed": model.seed,
                    "setting": self.settings[model.setting].name,
                    "accuracy": self.accuracy(number),
                    "loss": float(model.losses.mean()),
                }
                for number, model in enumerate(self.models)
            ],
            "pairs": [self._pair(pair) for pair in self.pairs],
            "method": self.method,
            "between_methods": None if self.between_methods is None else vars(self.between_methods),
            "between_seeds": [vars(one) for one in self.between_seeds],
            "notes": list(self.notes),
        }
        return dict(_finite(record))

    def _pair(self, pair: Pair) -> dict[str, Any]:
        layers = pair.layers
        return {
            "first": self.models[pair.first].name,
            "second": self.models[pair.second].name,
            "accuracy": {**pair.accuracy.to_dict(), "adjusted_p": pair.p},
            "seeds": None if pair.seeds is None else {**pair.seeds.to_dict(), "adjusted_p": pair.seeds_p},
            "agreement": [vars(one) for one in pair.agreement],
            "layers": None
            if layers is None
            else {"first": layers[0], "second": layers[1], "cka": np.round(layers[2], 6).tolist()},
        }

    def save(self, path: str | Path) -> Path:
        """Write the comparison as a self-contained HTML page and return its path; raises `WriteError` on failure."""
        from pellucid.report.comparison._page import comparison_page
        from pellucid.storage.atomic import write_bytes

        write_bytes(Path(path), comparison_page(self))
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the verdict and the accuracies as HTML for notebooks."""
        facts = [(model.name, f"{self.accuracy(number):.2%}") for number, model in enumerate(self.models)]
        return card("Comparison", facts_html([*facts, *(("", text) for text in self.verdict())]))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not isfinite(value) else value
