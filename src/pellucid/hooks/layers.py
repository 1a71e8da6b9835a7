"""Layers: activations, dead and saturated units, effective rank, gradient norms, similarity, and attention heads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import PellucidError
from pellucid.diagnostics import LayerStatistics, layer_statistics
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._heads import attention_heads
from pellucid.hooks._hook import left_out
from pellucid.hooks._kernels import Similarity, kernel_images, similarity
from pellucid.plots.layers import layers_figure

__all__ = ["Layers"]

MOST_ROWS = 80
"""Maximum number of layers, spread evenly over the depth of the network."""
DIGITS = 6
"""Significant digits of the stored numbers."""


@HOOKS.register("layers")
@dataclass(frozen=True)
class Layers(Hook):
    """Activations, dead and saturated units, effective rank, gradient norms and similarity (CKA) of the layers."""

    images: int = 256
    """Maximum number of test images, spread evenly over the test set."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with numbers, and arrays for the comparison with later epochs.

        The numbers are those of `LayerStatistics.to_dict`, with `layers` (a row per layer), `findings` and
        `active_bound`, and the similarity of up to 24 layers with weights over `cka_images` test images: `cka`
        (layer, layer) with `cka_layers` (names) and `cka_titles`, and the CKA of each layer with itself at the hook's
        last run, `cka_previous`, and its first one, `cka_first`, of `first_epoch`; None at the first run. The arrays
        `kernels` and `first_kernels` (layer, pair of images) are the centered Gram matrices above the diagonal, scaled
        to norm 1; `kernel_images` are indices of test images.

        For models with attention, the second artifact, `attention`, has the relevance of each head and attention
        rollouts; see `pellucid.hooks._heads.attention_heads`.
        """
        if not len(scene.test):
            return
        allowance = Allowance(scene, "layers")
        try:
            statistics = self._measure(scene, allowance)
        except PellucidError as error:
            yield left_out(scene, str(error))
            return
        if statistics is None:
            yield left_out(scene, "the budget (--budget) does not cover the layer statistics of one image.")
            return
        if not statistics.rows:
            yield left_out(scene, "no layer with weights and no activation function has one output per image.")
            return
        own = _similarity(scene, statistics, allowance)
        numbers = {**statistics.to_dict(), **_similarity_numbers(statistics, own)}
        title = f"{scene.title}: layer statistics"
        summary = " ".join([*_summary(statistics), *_change(numbers)])
        matrix = None if own is None else (numbers["cka_titles"], own.cka)
        yield Artifact(
            caption=f"{title} of {statistics.images:,} test images. {summary}",
            figure=layers_figure(numbers, title, summary, matrix),
            arrays={} if own is None else own.arrays,
            numbers=_rounded(numbers),
            scalars=_scalars(statistics),
        )
        yield from attention_heads(scene, statistics, allowance)

    def _measure(self, scene: Scene, allowance: Allowance) -> LayerStatistics | None:
        """Return the statistics of as many images as half of the budget covers; None if it does not cover one."""

        def of(indices: torch.Tensor) -> LayerStatistics:
            images, labels = scene.test.floats(indices).to(scene.device), scene.test.labels[indices]
            return layer_statistics(scene.model, images, labels, MOST_ROWS)

        most = min(len(scene.test), allowance.images(self.images))
        if allowance.is_limited:
            first = torch.arange(1)
            price = allowance.price("layer statistics", lambda: of(first))
            most = allowance.affordable(2 * price, most)
            if not most:
                return None
        with allowance.spending():
            indices = torch.arange(most) * len(scene.test) // most
            return of(indices)


def _similarity(scene: Scene, statistics: LayerStatistics, allowance: Allowance) -> Similarity | None:
    """Compare the layers with weights, over as many images as the rest of the budget covers."""
    paths = list(dict.fromkeys(row.name.partition("@")[0] for row in statistics.rows if not row.is_activation))
    indices = kernel_images(scene.test, len(paths), allowance.affordable(1.0, 10**6, calls=4))
    with allowance.spending():
        return similarity(scene, paths, indices)


def _similarity_numbers(statistics: LayerStatistics, own: Similarity | None) -> dict[str, Any]:
    if own is None:
        names = ("cka", "cka_layers", "cka_titles", "cka_images", "cka_previous", "cka_first", "first_epoch")
        return dict.fromkeys(names)
    titles = {row.name.partition("@")[0]: f"{row.name.partition('@')[0]} ({row.kind})" for row in statistics.rows}
    return {
        "cka": [_with_none(line) for line in own.cka],
        "cka_layers": list(own.names),
        "cka_titles": [titles.get(name, name) for name in own.names],
        "cka_images": len(own.arrays["kernel_images"]),
        "cka_previous": None if own.previous is None else _with_none(own.previous),
        "cka_first": None if own.first is None else _with_none(own.first),
        "first_epoch": own.first_epoch,
    }


def _with_none(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _summary(statistics: LayerStatistics) -> list[str]:
    texts = [one.text for one in statistics.findings]
    activations = [row for row in statistics.rows if row.is_activation]
    if activations and not any(one.kind in ("dead", "saturated", "not finite") for one in statistics.findings):
        texts.insert(0, "No dead or saturated units.")
    if not activations:
        texts.append("No activation function was recognized.")
    if len(statistics.rows) < statistics.found:
        texts.append(f"{len(statistics.rows)} of {statistics.found} layers, spread evenly over the depth.")
    return texts


def _change(numbers: dict[str, Any]) -> list[str]:
    """Return a sentence on the layer that has changed most since the previous epoch; none at the first."""
    known = [
        (value, title)
        for value, title in zip(numbers["cka_previous"] or (), numbers["cka_titles"] or (), strict=False)
        if value is not None
    ]
    if not known:
        return []
    least, title = min(known)
    return [f"Changed most since the last measurement: {title}, CKA {max(least, 0):.2f}."]


def _scalars(statistics: LayerStatistics) -> dict[str, float]:
    """Return the share of dead units of all activations, and the mean effective rank as a share of its bound."""
    active = [row for row in statistics.rows if row.is_activation]
    units = sum(row.units for row in active)
    ranks = [row.effective_rank / row.rank_bound for row in statistics.rows if row.rank_bound]
    ranks = [share for share in ranks if np.isfinite(share)]
    return {
        **({"dead_units": sum(len(row.dead_units) for row in active) / units} if units else {}),
        **({"effective_rank": float(np.mean(ranks))} if ranks else {}),
    }


def _rounded(value: Any) -> Any:
    """Round all numbers, so that the files stay small."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
