"""Explanations of compared models: maps of the images they disagree about, and the agreement of their maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.terminal import track
from pellucid.engine.model import device_of, dtype_of
from pellucid.evaluation._similarity import similarity
from pellucid.evaluation._statistics import intervals
from pellucid.hooks._class_maps import explain_classes
from pellucid.hooks._methods import FAST_OPTIONS, explain_each
from pellucid.hooks._quantised import fitting_size, quantised, shrunk
from pellucid.plots.colours import scale_limit
from pellucid.report import Material
from pellucid.report._recommended import recommended_method
from pellucid.report.comparison import Agreement, Comparison, Disagreements
from pellucid.run.compared import Loaded
from pellucid.storage.store import Store

__all__ = ["Explainer", "default_images"]

METHODS = ("gradient", "input_x_gradient", "integrated_gradients", "lrp.alpha_2_beta_1", "deeplift")
"""Methods whose maps are compared by default, after the one that the leaderboard recommends."""
MOST_METHODS = 5
LARGEST_MAPS = 4_000_000
"""Maximum number of values of all maps on the page; larger maps are downsampled."""
SMALL_SIDE = 64


def default_images(loaded: Sequence[Loaded]) -> int:
    """Return the number of images to explain by default: fewer for large images."""
    sides = [max(one.images.image_shape[1:]) for one in loaded if one.images is not None]
    return 200 if max(sides, default=0) <= SMALL_SIDE else 50


@dataclass(frozen=True, eq=False)
class Explainer:
    """Computes the maps of several models for the same test images."""

    loaded: Sequence[Loaded]
    rows: Sequence[np.ndarray]
    """Rows of the common test images in each model's own ones."""
    methods: Sequence[str]
    """Methods asked for; empty for the default ones."""
    seed: int
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, comparison: Comparison, count: int) -> Comparison:
        """Return the comparison with maps and agreements, over `count` of the common test images."""
        able = [number for number, one in enumerate(self.loaded) if one.model is not None]
        if 0 not in able or len(able) < 2:
            return comparison
        analyzers = self._analyzers(comparison)
        if not analyzers:
            return replace(comparison, refused=dict(self.refused))
        chosen = np.arange(count) * len(comparison.labels) // count
        targets = comparison.labels[chosen]
        maps: dict[str, dict[int, np.ndarray]] = {name: {} for name in analyzers}
        with track("explaining", len(analyzers) * len(able)) as bar:
            for name, own in analyzers.items():
                for number, analyzer in own.items():
                    maps[name][number] = self._maps(analyzer, number, chosen, targets)
                    bar.update(sum(map(len, maps.values())), name)
        pairs = []
        method = next(iter(analyzers))
        for pair in comparison.pairs:
            agreement = tuple(self._agreements(maps, pair.first, pair.second))
            shown = self._shown(comparison, pair.disagreements, (pair.first, pair.second), analyzers[method])
            pairs.append(replace(pair, agreement=agreement, disagreements=shown))
        return replace(
            comparison,
            pairs=tuple(pairs),
            method=method,
            between_methods=self._between_methods(maps),
            between_seeds=self._between_seeds(comparison, maps),
            explained_images=count,
            refused=dict(self.refused),
            notes=(*comparison.notes, *_differing_sizes(comparison, maps[method])),
        )

    def _analyzers(self, comparison: Comparison) -> dict[str, dict[int, Analyzer]]:
        """Return the analyzers of all models by method, for the methods that apply to all of them."""
        wanted = list(self.methods) or self._default()
        able = {number: one for number, one in enumerate(self.loaded) if one.model is not None}
        analyzers: dict[str, dict[int, Analyzer]] = {}
        for name in wanted:
            own: dict[int, Analyzer] = {}
            for number, one in able.items():

                def tried(name: str, one: Loaded = one, number: int = number) -> Analyzer:
                    assert one.model is not None
                    analyzer = create_analyzer(name, one.model, **FAST_OPTIONS.get(name, {}))
                    analyzer.explain(self._images(number, np.arange(1)), int(comparison.labels[0]))
                    return analyzer

                made, refused = explain_each([name], tried)
                if name in made:
                    own[number] = made[name]
                for reason in refused.values():
                    self.refused[name] = f"{comparison.models[number].name}: {reason}"
            if len(own) == len(able):
                analyzers[name] = own
        return analyzers

    def _default(self) -> list[str]:
        recommended = recommended_method(Material(Store(self.loaded[0].folder)))
        names = [recommended, *METHODS] if recommended else [*METHODS]
        return list(dict.fromkeys(names))[:MOST_METHODS]

    def _images(self, number: int, chosen: np.ndarray) -> Tensor:
        """Return common test images as the model at this position takes them."""
        one = self.loaded[number]
        assert one.images is not None
        assert one.model is not None
        own = torch.from_numpy(self.rows[number][chosen].astype(np.int64))
        return one.images.floats(own).to(device_of(one.model), dtype_of(one.model))

    def _maps(self, analyzer: Analyzer, number: int, chosen: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the maps (image, height, width) of common test images for one class each, summed over channels."""
        with without_warnings():
            return explain_classes(analyzer, self._images(number, chosen), targets[:, None]).relevance[:, 0]

    def _agreements(self, maps: Mapping[str, Mapping[int, np.ndarray]], first: int, second: int) -> Iterator[Agreement]:
        for name, own in maps.items():
            if first in own and second in own and own[first].shape == own[second].shape:
                yield self._agreement(name, _correlation(own[first], own[second]))

    def _agreement(self, name: str, values: np.ndarray) -> Agreement:
        mean, low, high = (float(one[0]) for one in intervals(values[:, None], self.seed))
        return Agreement(name, mean, low, high, int(np.isfinite(values).sum()))

    def _between_methods(self, maps: Mapping[str, Mapping[int, np.ndarray]]) -> Agreement | None:
        """Return the agreement of different methods on the first model: the mean over all pairs of methods."""
        pairs = [_correlation(maps[one][0], maps[two][0]) for one, two in combinations(maps, 2)]
        return self._agreement("different methods", np.mean(pairs, 0)) if pairs else None

    def _between_seeds(
        self, comparison: Comparison, maps: Mapping[str, Mapping[int, np.ndarray]]
    ) -> tuple[Agreement, ...]:
        """Return the agreement of the first model with the other seeds of its setting, by method."""
        seeds = [number for number in comparison.settings[comparison.models[0].setting].models if number]
        agreements = []
        for name, own in maps.items():
            values = [
                _correlation(own[0], own[number])
                for number in seeds
                if number in own and own[number].shape == own[0].shape
            ]
            if values:
                agreements.append(self._agreement(name, np.mean(values, 0)))
        return tuple(agreements)

    def _shown(
        self, comparison: Comparison, chosen: Disagreements, pair: tuple[int, int], analyzers: Mapping[int, Analyzer]
    ) -> Disagreements:
        """Return the images of a pair with the maps of both models."""
        if not len(chosen.rows) or not all(number in analyzers for number in pair):
            return chosen
        total = 4 * sum(len(one.disagreements.rows) for one in comparison.pairs)
        packed, limits = [], []
        for number in pair:
            with without_warnings():
                images = self._images(number, chosen.rows)
                relevance = explain_classes(analyzers[number], images, chosen.classes).relevance
            small = shrunk(relevance, fitting_size(relevance.shape[-2:], total, LARGEST_MAPS))
            packed.append(quantised(small))
            # 0 for maps without relevance, which must not set the scale of the other model's
            limits.append([scale_limit(one) if one.any() else 0.0 for one in small])
        (first, one), (second, two) = packed
        return replace(chosen, maps=(first, second), scales=(one, two), limits=np.max(limits, 0))


def _differing_sizes(comparison: Comparison, maps: Mapping[int, np.ndarray]) -> Iterator[str]:
    """Yield a note for each model whose maps have another size than the first model's."""
    for number, own in maps.items():
        if own.shape != maps[0].shape:
            one, two = ("×".join(map(str, each.shape[1:])) for each in (maps[0], own))
            first, other = comparison.models[0].name, comparison.models[number].name
            yield f"The maps of {first} ({one}) and {other} ({two}) differ in size, so their agreement is left out."


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the (image,) rank correlation of two sets of maps; NaN for maps that are constant or not finite."""
    values = similarity(torch.from_numpy(first[:, None]), torch.from_numpy(second[:, None]), "spearman").numpy()
    # the ranks of a constant map, such as that of a dead network, are undefined
    is_defined = np.logical_and(*(maps.max((1, 2)) > maps.min((1, 2)) for maps in (first, second)))
    finite = np.isfinite(first).all((1, 2)) & np.isfinite(second).all((1, 2))
    return np.where(finite & is_defined, values, np.nan)
