"""What each output reacts to, on average over each class: one pass over a data set."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.core.isolation import isolated
from pellucid.jacobian._finite import counted_from
from pellucid.jacobian._jacobian import jacobian
from pellucid.jacobian._problem import Model, Outputs

__all__ = ["ClassMeans", "jacobian_class_means"]


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Mean absolute Jacobians of the classes, and every image's spectral norm."""

    means: Tensor
    """(class, *outputs, *inputs), in units of output per unit of input; NaN for a class without an image."""
    counts: Int64[Tensor, " class"]
    """Images of each class."""
    labels: Int64[Tensor, " image"]
    """Of all images, in the order they came."""
    spectral_norms: Float[Tensor, " image"]
    """The largest singular value of each image's Jacobian (outputs, inputs)."""
    frobenius_norms: Float[Tensor, " image"]
    """The root of the sum of all its squares."""


def jacobian_class_means(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    outputs: Outputs = None,
    *,
    chunk: int | None = None,
) -> ClassMeans:
    r"""The mean of \(|J|\) over the images of each class, in one pass that holds one batch's Jacobian at a time.

    `batches` yields (images, labels), such as a `DataLoader`; `classes` is their number. Sums are in float64. Refuses
    what `jacobian` refuses; raises `ShapeError` for no image at all, or a label out of range.

    >>> layer = torch.nn.Linear(3, 2)
    >>> found = jacobian_class_means(layer, [(torch.rand(5, 3), torch.tensor([0, 0, 1, 0, 1]))], classes=2)
    >>> found.counts.tolist(), torch.allclose(found.means[1], layer.weight.abs())
    ([3, 2], True)
    """
    sums: Tensor | None = None
    counts = torch.zeros(classes, dtype=torch.int64, device="cpu")
    seen: list[Tensor] = []
    spectral: list[Tensor] = []
    frobenius: list[Tensor] = []
    like = torch.empty(0, dtype=torch.float32, device="cpu")
    for x, labels in batches:  # drawn in the caller's own surroundings, and without the lock
        if not len(x):
            continue
        with isolated(), counted_from(sum(map(len, seen))):
            labels = labels.to("cpu", torch.int64)
            if len(labels) != len(x) or int(labels.min()) < 0 or int(labels.max()) >= classes:
                raise ShapeError(
                    f"a batch has {len(x)} images and labels {labels.unique().tolist()}; classes is {classes}."
                )
            maps = jacobian(model, x, outputs, chunk=chunk)
            if sums is None:
                sums = torch.zeros((classes, *maps.shape[1:]), dtype=torch.float64, device=maps.device)
            for label in labels.unique().tolist():
                sums[label] += maps[labels.to(maps.device) == label].abs().sum(0, dtype=torch.float64)
            rows = maps.reshape(len(x), -1, x[0].numel())
            largest, total = _norms(rows)
            counts = counts + torch.bincount(labels, minlength=classes)
            seen.append(labels)
            spectral.append(largest)
            frobenius.append(total)
            like = maps[:0]
    if sums is None:
        raise ShapeError("batches holds no image; give at least one.")
    with isolated():
        means = sums / counts.to(sums.device).view(-1, *[1] * (sums.ndim - 1))  # 0 / 0: a class without an image
        return ClassMeans(means.to(like), counts, torch.cat(seen), torch.cat(spectral), torch.cat(frobenius))


def _norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Spectral and Frobenius norms of (batch, output, input), by the eigenvalues of \(J J^T\), which is small."""
    rows = rows.double() if rows.shape[1] <= rows.shape[2] else rows.double().mT
    gram = rows @ rows.mT
    largest = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt()
    return largest.cpu(), gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().cpu()
