"""Mean absolute Jacobians by class, computed in one pass over a data set."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.options import Count, check_argument
from pellucid.engine.inputs import Several, as_inputs, check_is_loader
from pellucid.jacobians._finite import counted_from
from pellucid.jacobians._jacobian import jacobian_by_chunk
from pellucid.jacobians._native.job import expected_images, images_in
from pellucid.jacobians._problem import Model, Outputs

__all__ = ["ClassMeans", "jacobian_class_means"]


PIECE = 1024
"""Number of products that are summed in float32."""
NORMAL = 1e-20, 1e30
"""Range of a sum of squares in which float32 loses nothing that matters to underflow or overflow."""


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Mean absolute Jacobian of each class, and the norms of each image's Jacobian."""

    means: Tensor
    """(class, *outputs, *inputs), in units of output per unit of input; NaN for a class without images."""
    counts: Int64[Tensor, " class"]
    """Number of images per class."""
    labels: Int64[Tensor, " image"]
    """Labels of all images, in the order of `batches`."""
    spectral_norms: Float[Tensor, " image"]
    """The largest singular value of each image's Jacobian (outputs, inputs)."""
    frobenius_norms: Float[Tensor, " image"]
    """The square root of the sum of squares of each image's Jacobian."""


def jacobian_class_means(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    outputs: Outputs = None,
    *,
    chunk: int | None = None,
) -> ClassMeans:
    r"""Average \(|J|\) over the images of each class, in one pass that holds the Jacobian of one chunk at a time.

    `batches` yields (images, labels), like a `DataLoader`; `classes` is the number of classes. The sums of all batches
    are accumulated in float64. Raises `ShapeError` if there are no images or a label is out of range, and otherwise
    whatever `jacobian` raises.

    >>> layer = torch.nn.Linear(3, 2)
    >>> result = jacobian_class_means(layer, [(torch.rand(5, 3), torch.tensor([0, 0, 1, 0, 1]))], classes=2)
    >>> result.counts.tolist(), torch.allclose(result.means[1], layer.weight.abs())
    ([3, 2], True)
    """
    check_argument("jacobian_class_means", "classes", classes, Count)
    check_is_loader(batches, "batches")
    totals, seen = _Totals(classes), 0
    total = images_in(batches)
    # iterate outside `isolated()`: loading data must neither hold the lock nor change the caller's modes
    for batch in batches:
        x, labels = _images_and_labels(batch, model)
        if not len(x):
            continue
        with isolated(), expected_images(total), counted_from(seen):
            if len(labels) != len(x) or int(labels.min()) < 0 or int(labels.max()) >= classes:
                raise ShapeError(
                    f"expected one label from 0 to {classes - 1} per image (classes is {classes}), got {len(labels)} "
                    f"labels {labels.unique().tolist()} for {len(x)} images."
                )
            jacobian_by_chunk(model, x, outputs, partial(totals.add, labels, x[0].numel()), chunk=chunk)
        seen += len(x)
    if not seen:
        raise ShapeError("batches contains no images. Pass at least one.")
    with isolated():
        return totals.result()


class _Totals:
    """Sums and norms of the images so far."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.sums: Tensor | None = None
        self.dtype = torch.float32
        self.labels: list[Tensor] = []
        self.norms: list[tuple[Tensor, Tensor]] = []

    def add(self, labels: Tensor, inputs: int, first: int, maps: Tensor) -> None:
        """Add the Jacobians (image, *outputs, *inputs) of a batch's images from `first` on, for `inputs` values each.

        `labels` are those of the batch.
        """
        labels = labels[first : first + len(maps)]
        if self.sums is None:
            self.sums = torch.zeros((self.classes, *maps.shape[1:]), dtype=torch.float64, device=maps.device)
        self.dtype = maps.dtype
        norms = _norms(maps.reshape(len(maps), -1, inputs))
        _add_by_class(self.sums, maps, labels, float(norms[1].max()))
        self.labels.append(labels)
        self.norms.append(norms)

    def result(self) -> ClassMeans:
        """Return the means over at least one image."""
        assert self.sums is not None
        labels = torch.cat(self.labels)
        counts = torch.bincount(labels, minlength=self.classes)
        # a class without images: 0 / 0 is NaN
        means = self.sums / counts.to(self.sums.device).view(-1, *[1] * (self.sums.ndim - 1))
        spectral, frobenius = (torch.cat(norms) for norms in zip(*self.norms, strict=True))
        return ClassMeans(means.to(self.dtype), counts, labels, spectral, frobenius)


def _add_by_class(sums: Tensor, maps: Tensor, labels: Tensor, largest: float) -> None:
    """Add |J| of each image (image, …) to the sum of its class; `largest` is the largest Frobenius norm."""
    # torch sums float32 in short partial sums, with less rounding than in J itself; but large values may overflow
    dtype = torch.float32 if maps.dtype == torch.float32 and largest < NORMAL[1] else torch.float64
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten().to(maps.device)
        # three times as fast as indexing by a mask, and a copy, so that the absolute values can replace it
        sums[label] += maps.index_select(0, places).abs_().sum(0, dtype=dtype)


def _images_and_labels(batch: object, model: Model) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a batch. Raises `ShapeError` if the batch is not a pair of these."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ShapeError(f"batches yields {type(batch).__name__}; expected pairs (images, labels).")
    images, labels = as_inputs(batch[0], model, "the images"), as_inputs(batch[1], None, "the labels")
    if isinstance(images, Several):
        raise ShapeError("batches yields several inputs; the means of a class need a single one.")
    if not images.ndim:
        raise ShapeError("batches yields a single number; expected images, (batch, …).")
    if isinstance(labels, Several) or labels.is_floating_point() or labels.ndim != 1:
        raise ShapeError("batches yields labels that are not (batch,) integers; pass one class index per image.")
    return images, labels.to("cpu", torch.int64)


def _norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return spectral and Frobenius norms of (batch, output, input), from the eigenvalues of \(J J^T\).

    Cheaper than an SVD, because only the smaller of \(J J^T\) and \(J^T J\) is formed.
    """
    # squaring J costs digits of the small singular values, but not of the largest
    gram = _gram(rows if rows.shape[1] <= rows.shape[2] else rows.mT)
    # rounding can make the eigenvalues of a zero Jacobian negative
    largest = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt()
    return largest.cpu(), gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().cpu()


def _gram(rows: Tensor) -> Tensor:
    """Return the products of all pairs of rows (batch, row, row), in float64.

    Those of float32 are summed in float32 over pieces of a row. Their rounding, about 1e-7 of the largest eigenvalue,
    is below that of the Jacobian itself. Squares that are not normal numbers of float32 are computed in float64.
    """
    if rows.dtype == torch.float32:
        pieces = rows.split(PIECE, 2)
        gram = (pieces[0] @ pieces[0].mT).double()
        for piece in pieces[1:]:
            gram += piece @ piece.mT
        sizes = gram.diagonal(dim1=1, dim2=2).sum(1)
        if bool(((sizes > NORMAL[0]) & (sizes < NORMAL[1])).all()):
            return gram
    rows = rows.double()
    return rows @ rows.mT
