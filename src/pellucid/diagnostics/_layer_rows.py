"""Statistics of layers as results: one row per layer, tables, JSON and a figure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import UnknownName
from pellucid.diagnostics._layer_findings import Finding, findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerRow", "LayerStatistics"]


@dataclass(frozen=True, eq=False)
class LayerRow:
    """Statistics of one layer over all images and positions.

    A layer is a module with weights, read before any activation, or an activation function. Its units are the channels
    of feature maps, or the features of vectors and tokens. A statistic is NaN if a value it is made of is not finite.
    """

    name: str
    """Path of the module, with `@1` for its second call; for a function called in a module, `module: function`, or
    `(model): function` outside all modules."""
    kind: str
    """Class of the module, or name of the function."""
    is_activation: bool
    shape: tuple[int, ...]
    """Shape of the output for one image."""
    units: int
    mean: float
    std: float
    quantiles: tuple[float, ...]
    """Quantiles 1%, 25%, 50%, 75% and 99% of a fixed sample of outputs."""
    minimum: float
    maximum: float
    zeros: float
    """Share of outputs that are exactly zero."""
    nonfinite: int
    """Number of outputs that are NaN or infinite."""
    dead_units: tuple[int, ...]
    """Units whose output is zero for every image, at every position."""
    saturated_units: tuple[int, ...] | None
    """Units at which |f′| is below 1% of its maximum for at least 95% of inputs; None if the function has no flat end
    besides that of a rectifier, which counts as dead instead."""
    without_gradient: int | None
    """Number of units whose gradient is zero for every image, at every position; None without gradients."""
    effective_rank: float
    """Effective rank of the centered outputs, with images and positions as samples; see `effective_rank`."""
    rank_bound: int
    """Largest possible effective rank, min(samples − 1, units)."""
    gradient_norm: float
    """Root mean square over the images of ‖∂ℓ/∂y‖₂, for an image's loss ℓ and its output y; NaN without gradients."""
    gradient_rms: float
    """The same divided by the root of the number of outputs: the size of one entry of the gradient."""
    nonfinite_gradients: int
    weight_norm: float
    """‖W‖₂ of all parameters of the module; NaN for activations."""
    weight_gradient_norm: float
    """‖∂L/∂W‖₂ of the mean loss L over the images; NaN for activations and without gradients."""

    @property
    def dead(self) -> float:
        """Share of dead units."""
        return len(self.dead_units) / max(self.units, 1)

    @property
    def saturated(self) -> float | None:
        """Share of saturated units."""
        return None if self.saturated_units is None else len(self.saturated_units) / max(self.units, 1)

    @property
    def title(self) -> str:
        """Name and kind, such as `3 (ReLU)`."""
        if self.name.partition("@")[0].endswith(f": {self.kind}"):
            return self.name
        return f"{self.name} ({self.kind})" if self.name else self.kind

    @property
    def gradient_ratio(self) -> float:
        """‖∂L/∂W‖₂ / ‖W‖₂."""
        return self.weight_gradient_norm / self.weight_norm if self.weight_norm > 0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values, with numbers of units in place of their indices, and None for NaN."""
        record = {one.name: getattr(self, one.name) for one in fields(self)}
        saturated = None if self.saturated_units is None else len(self.saturated_units)
        record |= {"title": self.title, "dead": len(self.dead_units), "saturated": saturated}
        record |= {"gradient_ratio": self.gradient_ratio, "shape": list(self.shape)}
        del record["dead_units"], record["saturated_units"]
        record["quantiles"] = [_finite(value) for value in self.quantiles]
        return {name: _finite(value) if isinstance(value, float) else value for name, value in record.items()}


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of the layers of a model, in the order of execution."""

    rows: tuple[LayerRow, ...]
    images: int
    has_gradients: bool
    loss: float
    """Mean cross-entropy over the images, in nats; NaN without labels."""
    found: int
    """Number of layers of the model, including those that were not chosen."""
    attention: tuple[str, ...] = ()
    """Modules that compute attention weights."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Layers without statistics, with the reason as a part of a sentence."""

    @property
    def active_bound(self) -> float:
        """Upper 95% confidence bound of the share of images for which a dead unit is active.

        For n independent images it is $1 - 0.05^{1/n}$, about 3/n (the rule of three).
        """
        return 1 - 0.05 ** (1 / self.images)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Conspicuous layers in sentences: values that are not finite, dead and saturated units, lost gradients."""
        return findings(self)

    def __getitem__(self, name: str) -> LayerRow:
        """Return the row of a layer; raises `UnknownName` with the names of all layers."""
        known = {row.name: row for row in self.rows}
        if name not in known:
            raise UnknownName("layer", name, known)
        return known[name]

    def __repr__(self) -> str:
        """Return a table with a row per layer."""
        width = max([len(row.title) for row in self.rows] + [5])
        head = f"  {'layer':<{width}}  units  dead  saturated  effective rank  ‖gradient‖"
        lines = [
            f"  {row.title:<{width}}  {row.units:>5}  {len(row.dead_units):>4}  "
            f"{'–' if row.saturated_units is None else len(row.saturated_units):>9}  "
            f"{row.effective_rank:>7.1f} / {row.rank_bound:<4}  {_or_dash(row.gradient_norm):>10}"
            for row in self.rows
        ]
        return "\n".join([f"LayerStatistics({self.images} images", head, *lines, ")"])

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        return {
            "images": self.images,
            "active_bound": self.active_bound,
            "loss": _finite(self.loss),
            "found": self.found,
            "layers": [row.to_dict() for row in self.rows],
            "attention": list(self.attention),
            "left_out": dict(self.left_out),
            "findings": [vars(one) for one in self.findings],
        }

    def figure(self, title: str = "Layer statistics") -> "Figure":
        """Draw activations, dead and saturated units, effective rank and gradient norm of each layer."""
        from pellucid.plots.layers import layers_figure

        return layers_figure(self.to_dict(), title)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_dash(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
