"""Attention rollout: the attention matrices of all layers, multiplied (Abnar and Zuidema, 2020)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject
from pellucid.attribution._attention import Plan, plan_of, read_attention
from pellucid.attribution._class_activation import check_images, upsampled
from pellucid.attribution._explanation import sharing
from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.core.options import Range

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda weights: weights.mean(1),
    "max": lambda weights: weights.amax(1),
    "min": lambda weights: weights.amin(1),
}
"""Fusions of (batch, head, token, token) over the heads."""


@METHODS.register("attention_rollout")
@dataclass(frozen=True)
class AttentionRollout(Attribution):
    """R = a row of Â_L · … · Â₁ with Â = ρ I + (1 − ρ) A, each row scaled to sum to 1 (equations 1 and 2 of the paper).

    A is a layer's attention matrix, (token, token), fused over its heads, and ρ the share of the residual connection.
    The row is that of the token that the logits read, such as the class token; its values for the tokens of the image
    are folded to the plane and upsampled with (bi)linear interpolation, the same for all channels. All values are at
    least 0, and `details["map"]` sums to at most 1: the rest is the share of class and register tokens. For token ids,
    each token's value is divided evenly among its features.

    The map is the same for every class. It follows attention weights alone: neither values, nor feed-forward layers,
    nor signs. Models without attention are refused, and so are windows, cross-attention and pooled tokens, for which
    the product is undefined.
    """

    family: ClassVar[str] = "attention"
    takes_several_inputs: ClassVar[bool] = False
    answers: ClassVar[str] = "which tokens of the image a transformer's attention connects to its output, for any class"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    heads: Literal["mean", "max", "min"] = "mean"
    """Fusion of the heads; the paper averages them."""
    residual: Annotated[float | int, Range(0, 1)] = 0.5
    """Share ρ of the residual connection, from 0 to 1."""
    discard_share: Annotated[float | int, Range(0, 1)] = 0.0
    """Share of each layer's fused attention weights that is set to zero, the smallest of each image."""
    row: int | Literal["auto", "mean"] = "auto"
    """Row of the product: that of a token, by its index; the mean over the tokens of the image; or "auto", the mean
    over the tokens of the last attention layer that the logits depend on."""

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        plan = plan_of(subject, images)
        weights, logits = read_attention(subject, images, plan)
        subject.check_finite(logits, question.targets)
        rows = self._rows(plan)
        product = rollout([self._fused(each) for each in weights], self.residual)
        shares = product[:, rows].mean(1)  # (batch, token)
        if plan.fold is None:
            plain = shares
            relevance = (shares / images.shape[2])[..., None].expand_as(images).clone()
        else:
            check_images(images)
            plain = plan.fold(shares[:, :, None])[:, 0]
            relevance = upsampled(plain, images)
        chosen = ", ".join(map(str, rows.tolist())) if len(rows) <= 4 else f"{len(rows)} tokens"
        notes = (f"{len(weights)} attention layers over {plan.tokens} tokens; row of the product: {chosen}",)
        return sharing(
            [
                Outcome(relevance, logits, target.classes(logits), details={"map": plain}, notes=notes)
                for target in question.targets
            ]
        )

    def _fused(self, weights: Tensor) -> Tensor:
        """Fuse heads, (batch, head, token, token) to (batch, token, token), and discard the smallest weights."""
        fused = FUSIONS[self.heads](weights)
        count = int(self.discard_share * fused[0].numel())
        if not count:
            return fused
        flat = fused.flatten(1)
        return flat.scatter(1, flat.topk(count, dim=1, largest=False).indices, 0.0).view_as(fused)

    def _rows(self, plan: Plan) -> Tensor:
        """Return the indices of the rows to average."""
        if isinstance(self.row, int):
            if not -plan.tokens <= self.row < plan.tokens:
                raise ConfigError(
                    f"row is {self.row}, but the attention layers have {plan.tokens} tokens; "
                    f"pass an index from {-plan.tokens} to {plan.tokens - 1}."
                )
            return torch.tensor([self.row % plan.tokens], device=plan.read.device)
        if self.row == "mean":
            return torch.arange(plan.tokens, device=plan.read.device) if plan.fold is None else plan.fold.order
        if not bool(plan.read.any()):
            raise UnsupportedOperation(
                "no token of the last attention layer has a gradient at the logits (as with a head of zeros, before "
                "training), so the row of the product is unknown; pass its index, such as row=0 for a class token."
            )
        return plan.read.nonzero()[:, 0]


def rollout(attention: Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Multiply attention matrices, (batch, token, token), from the first layer to the last.

    Returns (batch, token, token): row i holds the shares of the input tokens in token i of the output, which sum to 1.
    A token that attends to nothing, with `residual` 0, has a row of zeros.

    >>> layer = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    >>> rollout([layer, layer])
    tensor([[[1.0000, 0.0000],
             [0.4375, 0.5625]]])
    """
    product: Tensor | None = None
    for matrix in attention:
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        mixed = residual * identity + (1 - residual) * matrix
        total = mixed.sum(-1, keepdim=True)
        mixed = mixed / total.masked_fill(total == 0, 1)
        product = mixed if product is None else mixed @ product
    if product is None:
        raise ConfigError("rollout needs at least one attention matrix, but received none.")
    return product
