"""Eigen-CAM: the first principal component of a layer's feature maps (Muhammad and Yeasin, 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._class_activation import FeatureMaps, check_images
from pellucid.attribution._explanation import sharing
from pellucid.attribution._layer_values import read_values

_BALANCED = 1e-6
"""Sum of the loadings, relative to the sum of their absolute values, below which rounding decides the sign."""


@METHODS.register("eigen_cam")
@dataclass(frozen=True)
class EigenCam(FeatureMaps):
    """R = A v with v the first right singular vector of A, the layer's output as (position, channel).

    The map is the same for every class, and needs no gradient. The sign of a singular vector is arbitrary; it is chosen
    so that the loadings v sum to a positive number, which means that Σᵢ Rᵢ Σₖ Aᵢₖ > 0: the map is positive where the
    activations are high. For a layer after a ReLU, no value of the map is negative. `details["explained_share"]` holds
    σ₁² / Σ σ², the share of the layer's sum of squares that the component accounts for, from 0 to 1.
    """

    answers: ClassVar[str] = "which regions a layer responds to most, whatever the class"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    relu: bool = False
    """Keep only positive values of the map."""
    centred: bool = False
    """Subtract each channel's mean over the positions first, as in a principal component analysis; False: as in the
    paper."""

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        check_images(images)
        layer, output, logits = read_values(subject, images, self.layer)
        subject.check_finite(logits, question.targets)
        values = self.arranged(output, layer, images)
        plain, share, is_balanced = first_component(values, centred=self.centred)
        notes = self.notes(layer, values, plain)
        if bool(is_balanced.any()):
            notes += ("the loadings of some images sum to zero, so the sign of their map is arbitrary",)
        details = {"map": plain, "explained_share": share}
        return sharing(
            [
                Outcome(self.shown(plain, images), logits, target.classes(logits), details=dict(details), notes=notes)
                for target in question.targets
            ]
        )


def first_component(values: Tensor, *, centred: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Project feature maps, (batch, channel, …), onto their first right singular vector.

    Returns the maps, (batch, …), the share of the sum of squares that they account for, (batch,), and a mask, (batch,),
    of the images whose sign is arbitrary.

    >>> maps, share, _ = first_component(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]))
    >>> maps, share
    (tensor([[5., 0.]]), tensor([1.]))
    """
    # Rounding of nearly equal singular values would differ between a batch and its images in single precision.
    matrix = values.flatten(2).mT.double()
    if centred:
        matrix = matrix - matrix.mean(1, keepdim=True)
    sizes, loadings = torch.linalg.svd(matrix, full_matrices=False)[1:]
    first = loadings[:, 0]
    total = first.sum(1)
    is_balanced = (total.abs() <= _BALANCED * first.abs().sum(1)) & (sizes[:, 0] > 0)
    signs = torch.where(total < 0, -1.0, 1.0).to(matrix)
    maps = torch.einsum("bpk,bk,b->bp", matrix, first, signs)
    squares = sizes.square()
    # all zero activations: a map of zeros, which accounts for nothing
    share = squares[:, 0] / squares.sum(1).where(squares[:, 0] > 0, torch.ones_like(total))
    return maps.view(len(values), *values.shape[2:]).to(values.dtype), share.to(values.dtype), is_balanced
