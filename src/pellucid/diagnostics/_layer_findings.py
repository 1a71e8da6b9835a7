"""Conspicuous layers in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.core.text import listed

if TYPE_CHECKING:
    from pellucid.diagnostics._layer_rows import LayerRow, LayerStatistics

__all__ = ["LOST_SHARE", "STEEP", "Finding", "findings"]

LOST_SHARE = 0.5
"""Share of dead or saturated units in a layer from which on they are a finding of the whole network."""
STEEP = 1000.0
"""Factor between the gradient norms of the first and the last layer beyond which gradients vanish or explode."""
NAMED = 3
"""Maximum number of layers that a sentence names."""


@dataclass(frozen=True)
class Finding:
    """A sentence about layers."""

    kind: str
    """`not finite`, `dead`, `saturated`, `vanishing` or `exploding`."""
    text: str
    is_severe: bool
    """True for values that are not finite, half of a layer's units lost, and gradients that vanish or explode."""


def findings(statistics: "LayerStatistics") -> tuple[Finding, ...]:
    """Return the findings about a network, the severe ones first."""
    rows = statistics.rows
    found = [*_not_finite(rows), *_dead(rows), *_saturated(rows), *_gradients(rows)]
    return tuple(sorted(found, key=lambda one: not one.is_severe))


def _not_finite(rows: "Sequence[LayerRow]") -> list[Finding]:
    outputs = [row.title for row in rows if row.nonfinite]
    gradients = [row.title for row in rows if row.nonfinite_gradients]
    texts = []
    if outputs:
        texts.append(f"{_some(outputs)} {_have(outputs)} outputs that are NaN or infinite.")
    if gradients:
        texts.append(f"{_some(gradients)} {_have(gradients)} gradients that are NaN or infinite.")
    return [Finding("not finite", text, is_severe=True) for text in texts]


def _dead(rows: "Sequence[LayerRow]") -> list[Finding]:
    some = sorted((row for row in rows if row.is_activation and row.dead_units), key=lambda row: -row.dead)
    if not some:
        return []
    parts = [f"{len(row.dead_units):,} of {row.units:,} units of {row.title}" for row in some[:NAMED]]
    verb = "is" if len(some) == 1 and len(some[0].dead_units) == 1 else "are"
    return [Finding("dead", f"{_more(parts, len(some))} {verb} dead.", is_severe=some[0].dead >= LOST_SHARE)]


def _saturated(rows: "Sequence[LayerRow]") -> list[Finding]:
    some = sorted((row for row in rows if row.saturated_units), key=lambda row: -(row.saturated or 0))
    if not some:
        return []
    parts = [f"{len(row.saturated_units or ()):,} of {row.units:,} units of {row.title}" for row in some[:NAMED]]
    verb = "is" if len(some) == 1 and len(some[0].saturated_units or ()) == 1 else "are"
    text = f"{_more(parts, len(some))} {verb} saturated."
    return [Finding("saturated", text, is_severe=(some[0].saturated or 0) >= LOST_SHARE)]


def _gradients(rows: "Sequence[LayerRow]") -> list[Finding]:
    """Compare the gradient norms of the first and the last layer with weights."""
    layers = [row for row in rows if not row.is_activation and row.gradient_norm >= 0]
    if len(layers) < 2:
        return []
    first, last = layers[0], layers[-1]
    # without a gradient at the output, as at a loss of zero, there is nothing to lose on the way
    if not 0 < last.gradient_norm < float("inf"):
        return []
    ratio = first.gradient_norm / last.gradient_norm
    if ratio > STEEP:
        kind, how = "exploding", f"{ratio:,.0f} times as large"
    elif ratio < 1 / STEEP:
        kind, how = "vanishing", f"{1 / ratio:,.0f} times smaller" if ratio else "zero"
    else:
        return []
    verb = "explode" if kind == "exploding" else "vanish"
    than = " as" if kind == "exploding" else " than" if ratio else ", unlike that"
    text = f"Gradients {verb} toward the input: the norm at {first.title} is {how}{than} at {last.title}."
    return [Finding(kind, text, is_severe=True)]


def _some(titles: Sequence[str]) -> str:
    return _more(titles[:NAMED], len(titles))


def _more(parts: Sequence[str], count: int) -> str:
    """List the parts, and say how many more layers there are.

    >>> _more(["1 of 8 units of 1 (ReLU)"], 3)
    '1 of 8 units of 1 (ReLU) and some of 2 more layers'
    """
    rest = count - len(parts)
    if not rest:
        return listed(list(parts))
    return f"{', '.join(parts)} and some of {rest} more layer{'s' if rest > 1 else ''}"


def _have(titles: Sequence[str]) -> str:
    return "has" if len(titles) == 1 else "have"
