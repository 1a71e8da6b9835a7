"""An explanation with its certificate: what it should sum to, and what it sums to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import PellucidError

__all__ = ["AmplificationWarning", "Explanation", "Outcome", "ResidualError"]


class ResidualError(PellucidError):
    """A relevance that does not sum to what its method promises (raised by `explain(…, strict=True)`)."""


class AmplificationWarning(UserWarning):
    """Relevances of both signs cancel to a small part of their size, so that little of the map is signal."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method hands back for a batch; `Explanation` adds what follows from it."""

    relevance: Tensor
    logits: Tensor
    classes: Tensor
    """(batch,): the class explained; −1 for a score of the user's own."""
    promised: Tensor | None = None
    """(batch,): what relevance and absorbed shares sum to; None where nothing is promised."""
    absorbed: Mapping[str, Tensor] = field(default_factory=dict)
    absorbed_by: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: Tensor | None = None
    """(batch,): how often the model was run for each image, a backward pass not counted; None: once."""
    details: Mapping[str, Tensor] = field(default_factory=dict)
    """(batch,) each: what else the method tells of each image."""
    notes: tuple[str, ...] = ()

    @staticmethod
    def join(parts: Sequence["Outcome"]) -> "Outcome":
        """The outcomes of several batches as one."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {name: _join([getattr(part, name) for part in parts]) for name in _names()}
        return Outcome(**joined, notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)))


def _names() -> list[str]:
    return [entry.name for entry in fields(Outcome) if entry.name != "notes"]


def _join(values: Sequence[Tensor | Mapping[str, Tensor] | None]) -> object:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([value for value in values if isinstance(value, Tensor)])
    mappings = [value for value in values if isinstance(value, Mapping)]
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    if not keys:
        return {}
    zeros = [torch.zeros_like(next(iter(mapping.values()))) if mapping else None for mapping in mappings]
    return {
        key: torch.cat(
            [value for m, zero in zip(mappings, zeros, strict=True) if (value := m.get(key, zero)) is not None]
        )
        for key in keys
    }


@dataclass(frozen=True, eq=False)
class Explanation:
    """Relevance and its certificate."""

    relevance: Tensor
    """Like the images; per unit of pixel for derivatives, in units of the logit for methods that share it out."""
    target: Tensor
    """(batch,): the class explained; −1 for a score of one's own."""
    logits: Tensor
    """(batch, class)."""
    expected: Tensor | None
    """(batch,): the promised sum less what was absorbed; None where the method promises no sum."""
    residual: Tensor | None
    """(batch,): the sum of the relevance less `expected`."""
    absorbed: Mapping[str, Tensor]
    """(batch,) each, under `bias`, `stabiliser` and `constant`: by each rule's own formula, never as a difference."""
    absorbed_by: Mapping[str, Tensor]
    """The constants again, by operation and module."""
    amplification: Tensor
    """(batch,): Σ|R| / |explained logit|."""
    allowed: Tensor | None
    """(batch,): the residual that the method's tolerance allows."""
    evaluations: Tensor
    """(batch,): how often the model was run for each image."""
    seed: int | None
    """The seed of the method's random draws; None where it draws none."""
    method: str
    details: Mapping[str, Tensor] = field(default_factory=dict)
    """(batch,) each: what else the method tells of each image."""
    notes: tuple[str, ...] = ()
    """What a reader must know, such as that a root was not found."""

    def check(self) -> None:
        """Raise `ResidualError` where a residual is over the method's tolerance."""
        if self.residual is None or self.allowed is None or self.expected is None:
            return
        over = (~(self.residual.abs() <= self.allowed)).nonzero().flatten()
        if len(over):
            worst = int(over[self.residual[over].abs().argmax()])
            raise ResidualError(
                f"{self.method}: the relevance of {len(over)} of {len(self.relevance)} images does not sum to what it "
                f"should; image {worst} sums to {float(self.residual[worst] + self.expected[worst]):.6g} instead of "
                f"{float(self.expected[worst]):.6g} (allowed: {float(self.allowed[worst]):.2g}). "
                "Compute in float64, or refine the method's tolerance."
            )
