"""Assess the labels of training images by one forward pass of the network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.diagnostics._label_errors import NEIGHBORS, LabelErrors, combined
from pellucid.diagnostics._nearest import FEATURES, REFERENCES, neighbor_labels, projection
from pellucid.diagnostics._self_influence import influence_of_norm
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import Scene
from pellucid.hooks._outputs import OutputReader

__all__ = ["Assessed", "assess"]

FEWEST = 2
"""Minimum number of training images to compare."""


@dataclass(frozen=True, eq=False)
class Assessed:
    """Scores of the training images that were read."""

    errors: LabelErrors
    probabilities: Tensor
    """(image, class): float64, on the CPU."""
    indices: Tensor
    """(image,): positions among the training images."""
    total: int
    """Number of training images."""
    not_finite: int
    """Number of images left out because their logits are not finite."""
    no_embedding: str | None
    """Reason why there are no neighbors and no self-influence; None if there are."""

    @property
    def text(self) -> str:
        """Number and selection of the images, such as "1,200 of 50,000 training images"."""
        read = len(self.indices) + self.not_finite
        share = f"{read:,} of {self.total:,}" if read < self.total else f"{read:,}"
        skipped = f" ({self.not_finite:,} without finite logits are left out)" if self.not_finite else ""
        return f"{share} training images{skipped}"

    def most_suspicious(self, count: int, chosen: tuple[int, ...] | None) -> Tensor:
        """Return the rows of the most suspicious images whose label or suggested class is chosen."""
        ranking = self.errors.ranking
        if chosen is not None:
            wanted = torch.tensor(chosen)
            given, suggested = self.errors.labels[ranking], self.errors.suggested[ranking]
            ranking = ranking[torch.isin(given, wanted) | torch.isin(suggested, wanted)]
        return ranking[:count]


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Logits of images, and their embedding in few dimensions, with its original norm; all on the CPU."""

    logits: Tensor
    embedding: Tensor | None
    squared_norm: Tensor | None

    @property
    def is_finite(self) -> Tensor:
        """(image,): True where all values are finite."""
        is_finite = self.logits.isfinite().all(1)
        return is_finite if self.squared_norm is None else is_finite & self.squared_norm.isfinite()


def assess(scene: Scene, most: int) -> Assessed | str:
    """Assess up to `most` training images, spread evenly over all; return the reason if it is impossible."""
    train = scene.train
    if train is None or not len(train):
        return "there are no training images (pass training_data=…)"
    if len(train) < FEWEST:
        return f"there is only one training image; at least {FEWEST} are required"
    allowance, reader = Allowance(scene, "label_errors"), OutputReader.of(scene)
    count = _affordable(allowance, reader, min(most, len(train)))
    if count < FEWEST:
        return f"the budget (--budget) does not cover comparing {FEWEST} training images"
    indices = torch.arange(count, device="cpu") * len(train) // count
    # avoid a copy of all images
    outputs = _read(reader, train if count == len(train) else train[indices], scene.seed)
    classes, labels = outputs.logits.shape[1], train.labels[indices]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        return f"labels of the training images range from {low} to {high}, but the model has {classes} logits"
    is_finite = outputs.is_finite
    if not bool(is_finite.any()):
        return "the outputs of the network for the training images are not finite"
    probabilities, labels = outputs.logits[is_finite].double().softmax(1), labels[is_finite]
    near = influence = None
    if outputs.embedding is not None and outputs.squared_norm is not None:
        near = neighbor_labels(outputs.embedding[is_finite], labels, NEIGHBORS, scene.seed)
        influence = influence_of_norm(probabilities, labels, outputs.squared_norm[is_finite])
    errors, skipped = combined(probabilities, labels, near, influence), int((~is_finite).sum())
    return Assessed(errors, probabilities, indices[is_finite], len(train), skipped, reader.refused)


def _affordable(allowance: Allowance, reader: OutputReader, most: int) -> int:
    """Return the number of images that the budget covers: a forward pass each, and the search for its neighbors."""
    if not allowance.is_limited:
        return most
    # two FLOPs per product: the projection, and the distances from the references
    products = reader.features * FEATURES * (reader.features > FEATURES) + min(REFERENCES, most) * FEATURES
    search = allowance.passes(2 * products) if reader.features else 0.0
    return allowance.affordable(1.0 + search, most)


def _read(reader: OutputReader, images: ImageSet, seed: int) -> _Outputs:
    """Read the outputs of images, and reduce each embedding at once: those of all images could exceed the memory."""
    matrix = projection(reader.features, seed)
    logits, embeddings, norms = [], [], []
    for output in reader.read_all(images):
        logits.append(output.logits.cpu())
        if output.embedding is not None:
            norms.append(torch.linalg.vector_norm(output.embedding, dim=1).double().square().cpu())
            points = output.embedding if matrix is None else output.embedding @ matrix.to(output.embedding.device)
            embeddings.append(points.cpu())
    has_embedding = bool(embeddings)
    return _Outputs(
        torch.cat(logits),
        torch.cat(embeddings) if has_embedding else None,
        torch.cat(norms) if has_embedding else None,
    )
