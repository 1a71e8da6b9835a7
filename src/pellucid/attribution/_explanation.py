"""The result of an attribution: the relevance map, and its actual and promised sums."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.attribution._display import Display, Pictured
from pellucid.attribution._verdict import verdict
from pellucid.core.errors import PellucidError
from pellucid.core.finite import first_bad_row
from pellucid.core.showing import Shown

if TYPE_CHECKING:
    from pellucid.attribution._flow import RelevanceFlow
    from pellucid.attribution._method import Attribution
    from pellucid.attribution._target import Target

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
    """Relevance does not sum to the total that its method promises (raised by `explain(…, strict=True)`)."""


class AmplificationWarning(UserWarning):
    """Positive and negative relevance almost cancel, so most of the map is noise."""


class CompletenessWarning(UserWarning):
    """Relevance misses the total that its method promises by more than the method's tolerance."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence amplification and completeness warnings, for callers that report these numbers themselves."""
    with warnings.catch_warnings():
        for category in (AmplificationWarning, CompletenessWarning):
            warnings.simplefilter("ignore", category)
        yield


@dataclass(frozen=True, eq=False)
class Outcome:
    """Raw result of a method on a batch; `Explanation` adds the derived quantities."""

    relevance: Tensor
    logits: Tensor
    classes: Tensor
    """(batch,): the explained class; −1 for a custom score."""
    promised: Tensor | None = None
    """(batch,): the total of relevance and absorbed shares; None if the method promises no sum."""
    absorbed: Mapping[str, Tensor] = field(default_factory=dict)
    absorbed_by: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: Tensor | None = None
    """(batch,): forward passes per image (backward passes are not counted); None means one."""
    details: Mapping[str, Tensor] = field(default_factory=dict)
    """Additional results per image, (batch,) each."""
    notes: tuple[str, ...] = ()
    precision: torch.dtype | None = None
    """The lowest precision of any value of the forward pass; None: that of the relevance."""
    flow: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    """Relevance per image, (batch,), by junction and branch, for relevance at hidden layers."""
    activations: Tensor | None = None
    """The output of the layer, in the shape of the relevance; None for the input."""

    @property
    def is_finite(self) -> bool:
        """True if neither a map nor a promised sum contains NaN or infinities."""
        values = [self.relevance] if self.promised is None else [self.relevance, self.promised]
        return all(first_bad_row(value) is None for value in values)

    @staticmethod
    def join(parts: Sequence["Outcome"]) -> "Outcome":
        """Concatenate the outcomes of several batches."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {name: _join([getattr(part, name) for part in parts]) for name in _names()}
        notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        return Outcome(**joined, notes=notes, precision=parts[0].precision)


def sharing(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Charge forward passes shared by several targets to the first outcome only."""
    # Summed over targets, evaluations then count every pass exactly once.
    free = [torch.zeros_like(outcome.classes) for outcome in outcomes[1:]]
    return [*outcomes[:1], *(replace(one, evaluations=none) for one, none in zip(outcomes[1:], free, strict=True))]


def _names() -> list[str]:
    return [entry.name for entry in fields(Outcome) if entry.name not in ("notes", "precision")]


def _join(values: Sequence[Tensor | Mapping[Any, Tensor] | None]) -> object:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([value for value in values if isinstance(value, Tensor)])
    mappings = [value for value in values if isinstance(value, Mapping)]
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    if not keys:
        return {}
    # A batch may lack a key that others have; zeros keep the rows aligned.
    zeros = [torch.zeros_like(next(iter(mapping.values()))) if mapping else None for mapping in mappings]
    return {
        key: torch.cat(
            [value for m, zero in zip(mappings, zeros, strict=True) if (value := m.get(key, zero)) is not None]
        )
        for key in keys
    }


@dataclass(frozen=True, eq=False)
class Completeness:
    """Actual and promised sums of the maps; each (batch,), or (batch, class) for all classes."""

    expected: Tensor
    """Promised sum minus the absorbed shares."""
    residual: Tensor
    """Sum of the relevance minus `expected`."""
    allowed: Tensor
    """Largest residual within the method's tolerance."""

    @staticmethod
    def stack(parts: Sequence["Completeness"]) -> "Completeness":
        """Stack the results of several classes."""
        columns = zip(*((part.expected, part.residual, part.allowed) for part in parts), strict=True)
        return Completeness(*(torch.stack(column, 1) for column in columns))

    def missed(self, method: str, remedy: str) -> str:
        """Describe the map with the largest excess residual and the remedy; empty if every map is within tolerance."""
        is_over = ~(self.residual.abs() <= self.allowed)  # not `>`, which is False for NaN
        if not bool(is_over.any()):
            return ""
        residual, expected, allowed = self.residual.flatten(), self.expected.flatten(), self.allowed.flatten()
        # The worst of those beyond their tolerance: a larger residual elsewhere may be within its own.
        over = is_over.flatten().nonzero().flatten()
        worst = int(over[residual[over].abs().argmax()])
        image, *place = (
            int(index) for index in torch.unravel_index(torch.tensor(worst, device="cpu"), self.residual.shape)
        )
        class_text = f", class {place[0]}" if place else ""
        return (
            f"{method}: the relevance of {len(over)} of {len(residual)} {'maps' if place else 'images'} does not sum "
            f"to what the method promises. The worst, image {image}{class_text}, sums to "
            f"{float(residual[worst] + expected[worst]):.6g} instead of {float(expected[worst]):.6g} "
            f"(tolerance: {float(allowed[worst]):.2g}). {remedy}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Shown, Pictured):
    """A relevance map, with its inputs and its actual and promised sums.

    Notebooks display it as a figure; `show()` opens the figure, and `save("why.png")` writes it.

    With `target="all"`, relevance is (batch, class, …), and every (batch,) field below is (batch, class), except
    `evaluations` and `logits`, which the classes share.
    """

    relevance: Any
    """Same shape as the images; for several inputs, maps in the structure of the inputs. Logits per unit of pixel value
    for derivatives; logits for methods that distribute the logit."""
    target: Tensor
    """(batch,): the explained class; −1 for a custom score. A contrast's other class is `details["against"]`."""
    logits: Tensor
    """(batch, class), or (batch, …) for models with other outputs."""
    expected: Tensor | None
    """(batch,): the promised sum minus the absorbed shares; None if the method promises no sum."""
    residual: Tensor | None
    """(batch,): the sum of the relevance minus `expected`."""
    absorbed: Mapping[str, Tensor]
    """Relevance that does not reach the input, (batch,) each for `bias`, `stabiliser` and `constant`. Computed from
    each rule's formula, never as the missing difference."""
    absorbed_by: Mapping[str, Tensor]
    """The absorbed constants, itemized by operation and module."""
    amplification: Tensor
    """(batch,): Σ|R| divided by the magnitude of the explained logit, contrast or score."""
    allowed: Tensor | None
    """(batch,): the largest residual within the method's tolerance."""
    evaluations: Tensor
    """(batch,): forward passes per image."""
    seed: int | None
    """Random seed of the method; None for deterministic methods."""
    method: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """Additional results per image, (batch, …) each; maps of several inputs are in their structure."""
    notes: tuple[str, ...] = ()
    """Caveats about these maps, such as a root that was not found."""
    remedy: str = field(default="", repr=False)
    """Advice for maps that miss their sum."""
    inputs: Any = None
    """A copy of the explained inputs, (batch, …); several inputs keep their structure."""
    unit: str = ""
    """Unit of the relevance, such as "logits"; empty if its scale has no meaning."""
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    """Class names by index; None if unknown."""
    display: Display = field(default_factory=Display, repr=False)
    """Titles, value range and token texts for drawing the inputs."""
    layer: str = ""
    """Name of the layer whose output has the relevance; empty for the input."""
    activations: Tensor | None = None
    """The output of the layer, (batch, …); None for the input."""
    explained: str = ""
    """The explained hidden unit in words; empty for outputs of the model."""
    branches: Mapping[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    """Relevance per image, (batch,), by junction and branch; see `flow`."""

    @staticmethod
    def of(outcome: Outcome, target: "Target", method: "Attribution", name: str, layer: str = "") -> "Explanation":
        """Return the explanation of one target, from the outcome of the method registered as `name`."""
        # Everything below is derived here rather than by the methods, so that all of them are held to one definition.
        size = outcome.relevance.flatten(1).abs().sum(1)
        score = target.scores(outcome.logits).detach().abs()
        against = target.against(outcome.logits)
        sums = method.completeness(outcome)
        return Explanation(
            relevance=outcome.relevance,
            target=outcome.classes,
            logits=outcome.logits,
            expected=None if sums is None else sums.expected,
            residual=None if sums is None else sums.residual,
            absorbed=outcome.absorbed,
            absorbed_by=outcome.absorbed_by,
            # Σ|R| is only comparable to the logit if the method distributes a promised sum.
            # The clamp keeps the ratio finite if the score is zero.
            amplification=torch.zeros_like(size) if outcome.promised is None else size / score.clamp(min=1e-12),
            allowed=None if sums is None else sums.allowed,
            evaluations=torch.ones_like(outcome.classes) if outcome.evaluations is None else outcome.evaluations,
            seed=getattr(method, "seed", None),
            method=name,
            details=outcome.details if against is None else {**outcome.details, "against": against},
            notes=outcome.notes,
            remedy=method.remedy,
            unit=_unit_of(method.unit, target),
            layer=layer,
            activations=outcome.activations,
            explained="" if target.unit is None else str(target.unit),
            branches=outcome.flow,
        )

    @staticmethod
    def stack(parts: Sequence["Explanation"]) -> "Explanation":
        """Stack the explanations of all classes."""
        stacked = {entry.name: _stack([getattr(part, entry.name) for part in parts]) for entry in fields(Explanation)}
        return Explanation(
            **{
                **stacked,
                "logits": parts[0].logits,
                # Shared passes are charged to the first class (see `sharing`), so the sum counts each once.
                "evaluations": stacked["evaluations"].sum(1),
                "seed": parts[0].seed,
                "method": parts[0].method,
                "unit": parts[0].unit,
                "layer": parts[0].layer,
                "activations": parts[0].activations,
                "explained": parts[0].explained,
                "notes": tuple(dict.fromkeys(note for part in parts for note in part.notes)),
            }
        )

    @property
    def explanations(self) -> tuple["Explanation", ...]:
        """The explanation itself, as a tuple of one."""
        return (self,)

    def verdict(self, *index: int) -> str:
        """Return a sentence on the sum of a map and whether it is as promised, for `(image)` or `(image, class)`.

        The default is the first map.

        >>> from torch import nn
        >>> from pellucid.attribution import create_analyzer
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> create_analyzer("lrp.z", model).explain(torch.ones(1, 2)).verdict()
        'Attributions sum to 2, as expected (residual 0, within tolerance).'
        """
        return verdict(self, index or (0,) * self.target.ndim)

    def flow(self) -> "RelevanceFlow":
        """Return the relevance of the layer, and of each branch where paths meet above it, as a table and a figure.

        For `to=` and methods that distribute the logit; `ConfigError` for others. See `RelevanceFlow`.
        """
        from pellucid.attribution._flow import RelevanceFlow

        return RelevanceFlow.of([self])

    def missed(self) -> str:
        """Describe the map that misses its sum the most and the remedy; empty if every map is within tolerance."""
        if self.residual is None or self.allowed is None or self.expected is None:
            return ""
        return Completeness(self.expected, self.residual, self.allowed).missed(self.method, self.remedy)

    def check(self) -> None:
        """Raise `ResidualError` if a residual exceeds the method's tolerance."""
        if missed := self.missed():
            raise ResidualError(missed)


def _unit_of(unit: str, target: "Target") -> str:
    if target.unit is not None:
        return unit.replace("logits", "activation")
    return unit if target.score is None else unit.replace("logits", "units of the score")


def _stack(values: Sequence[Any]) -> Any:
    """Stack tensors (and those in mappings, where a missing entry is zero) along a new axis 1."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(list(values), 1)
    if not isinstance(first, Mapping):
        return first
    # Classes may absorb relevance in different places, such as the biases of different branches.
    entries = {key: value for mapping in values for key, value in mapping.items()}
    return {
        key: torch.stack([mapping.get(key, torch.zeros_like(entry)) for mapping in values], 1)
        for key, entry in entries.items()
    }
