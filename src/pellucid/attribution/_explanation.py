"""An explanation with its certificate: what it should sum to, and what it sums to."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import PellucidError
from pellucid.core.showing import Shown

__all__ = [
    "AmplificationWarning",
    "Completeness",
    "CompletenessWarning",
    "Explanation",
    "Outcome",
    "ResidualError",
    "sharing",
    "without_warnings",
]


class ResidualError(PellucidError):
    """A relevance that does not sum to what its method promises (raised by `explain(…, strict=True)`)."""


class AmplificationWarning(UserWarning):
    """Relevances of both signs cancel to a small part of their size, so that little of the map is signal."""


class CompletenessWarning(UserWarning):
    """A relevance that does not sum to what its method promises, within the method's tolerance."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warning about cancelling relevances or missed sums, for callers that report these numbers themselves."""
    with warnings.catch_warnings():
        for category in (AmplificationWarning, CompletenessWarning):
            warnings.simplefilter("ignore", category)
        yield


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


def sharing(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes of targets for which the model was run together: the runs are counted in the first one alone."""
    free = [torch.zeros_like(outcome.classes) for outcome in outcomes[1:]]
    return [*outcomes[:1], *(replace(one, evaluations=none) for one, none in zip(outcomes[1:], free, strict=True))]


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
class Completeness:
    """What maps sum to, beside what they should; each (batch,), or (batch, class) for all classes at once."""

    expected: Tensor
    """The promised sum, less what was absorbed."""
    residual: Tensor
    """The sum of the relevance, less `expected`."""
    allowed: Tensor
    """The residual that the method's tolerance allows."""

    @staticmethod
    def stack(parts: Sequence["Completeness"]) -> "Completeness":
        """Those of several classes as one."""
        columns = zip(*((part.expected, part.residual, part.allowed) for part in parts), strict=True)
        return Completeness(*(torch.stack(column, 1) for column in columns))

    def missed(self, method: str, remedy: str) -> str:
        """The worst of the maps whose sum is missed, and the way out, in words; empty where there is none."""
        is_over = ~(self.residual.abs() <= self.allowed)
        if not bool(is_over.any()):
            return ""
        residual, expected, allowed = self.residual.flatten(), self.expected.flatten(), self.allowed.flatten()
        over = is_over.flatten().nonzero().flatten()
        worst = int(over[residual[over].abs().argmax()])
        image, *place = (
            int(index) for index in torch.unravel_index(torch.tensor(worst, device="cpu"), self.residual.shape)
        )
        of_class = f", class {place[0]}" if place else ""
        return (
            f"{method}: the relevance of {len(over)} of {len(residual)} {'maps' if place else 'images'} does not sum "
            f"to what the method promises. The worst, image {image}{of_class}, sums to "
            f"{float(residual[worst] + expected[worst]):.6g} instead of {float(expected[worst]):.6g} "
            f"(tolerance: {float(allowed[worst]):.2g}). {remedy}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Shown):
    """Relevance and its certificate.

    With `target="all"`, relevance is (batch, class, …), and what is (batch,) below is (batch, class), `evaluations`
    and `logits` excepted, which the classes share.
    """

    relevance: Tensor
    """Like the images; per unit of pixel for derivatives, in units of the logit for methods that share it out."""
    target: Tensor
    """(batch,): the class explained; −1 for a score of one's own. A contrast's other class is `details["against"]`."""
    logits: Tensor
    """(batch, class), or whatever outputs (batch, …) the model has."""
    expected: Tensor | None
    """(batch,): the promised sum less what was absorbed; None where the method promises no sum."""
    residual: Tensor | None
    """(batch,): the sum of the relevance less `expected`."""
    absorbed: Mapping[str, Tensor]
    """(batch,) each, under `bias`, `stabiliser` and `constant`: by each rule's own formula, never as a difference."""
    absorbed_by: Mapping[str, Tensor]
    """The constants again, by operation and module."""
    amplification: Tensor
    """(batch,): Σ|R| / |explained number|: the logit, the contrast or the score."""
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
    remedy: str = field(default="", repr=False)
    """What helps where the sum is missed."""

    @staticmethod
    def stack(parts: Sequence["Explanation"]) -> "Explanation":
        """The explanations of every class as one."""
        stacked = {entry.name: _stack([getattr(part, entry.name) for part in parts]) for entry in fields(Explanation)}
        return Explanation(
            **{
                **stacked,
                "logits": parts[0].logits,
                "evaluations": stacked["evaluations"].sum(1),
                "seed": parts[0].seed,
                "method": parts[0].method,
                "notes": tuple(dict.fromkeys(note for part in parts for note in part.notes)),
            }
        )

    def missed(self) -> str:
        """The worst of the maps whose sum is missed, and the way out, in words; empty where every sum is kept."""
        if self.residual is None or self.allowed is None or self.expected is None:
            return ""
        return Completeness(self.expected, self.residual, self.allowed).missed(self.method, self.remedy)

    def check(self) -> None:
        """Raise `ResidualError` where a residual is over the method's tolerance."""
        if missed := self.missed():
            raise ResidualError(missed)


def _stack(values: Sequence[Any]) -> Any:
    """Tensors along a new axis 1, in mappings too, where a missing entry is zero."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(list(values), 1)
    if not isinstance(first, Mapping):
        return first
    entries = {key: value for mapping in values for key, value in mapping.items()}
    return {
        key: torch.stack([mapping.get(key, torch.zeros_like(entry)) for mapping in values], 1)
        for key, entry in entries.items()
    }
