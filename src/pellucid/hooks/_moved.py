"""Part of the hook `robustness` that attacks explanations."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.core.contracts import Artifact
from pellucid.core.errors import PellucidError
from pellucid.diagnostics.robustness import Movement, MovementSearch, explanation_movement
from pellucid.hooks._attacked import Attacked, display, json_values, median_of
from pellucid.hooks._hook import Scene
from pellucid.hooks._methods import bounded_options, create_fitted, explain_each
from pellucid.plots.robustness import MovementPanel, movement_histograms

__all__ = ["moved_methods", "movement_artifact", "options_of"]

METHODS = ("gradient", "lrp.epsilon_plus_flat")
"""Attribution methods whose explanations are attacked, unless `--methods` is given."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {"integrated_gradients": {"steps": 12}, "smoothgrad": {"samples": 12}}
"""Options of the methods: each image is explained about a hundred times."""
FIXED_SHARE = 0.02
"""Fixed radius, as a share of the pixel range."""
LISTS = ("attack", "attack_rank", "noise", "noise_rank")


def moved_methods(scene: Scene) -> tuple[str, ...]:
    """Return the methods whose explanations are attacked: the first two of `--methods`, or the default ones."""
    return (scene.methods or METHODS)[:2]


def options_of(scene: Scene, name: str) -> Mapping[str, Any]:
    """Return the options of a method."""
    return bounded_options(scene, name) if scene.budget else OPTIONS.get(name, {})


def movement_artifact(scene: Scene, attacked: Attacked, count: int, search: MovementSearch) -> Artifact:
    """Return the figure of the movement of the explanations of at most `count` images.

    Each is attacked within a fixed radius, and within half of its adversarial radius in L∞. Raises `PellucidError` if
    no image or no method is left.
    """
    own = attacked.found["linf"].radius
    chosen = (own.isfinite() & (own > 0)).nonzero()[:count, 0]
    if not len(chosen):
        raise PellucidError("no image has an adversarial radius.")
    fixed = FIXED_SHARE * (scene.test.scale[1] - scene.test.scale[0])
    radii = {"fixed": torch.full_like(own[chosen], fixed), "half_of_adversarial": own[chosen] / 2}
    titles = {"fixed": f"r = {fixed:.2g}", "half_of_adversarial": "r = adversarial radius / 2"}
    measured, refused = explain_each(
        moved_methods(scene), lambda name: _measure(scene, name, attacked.images[chosen], radii, search)
    )
    if not measured:
        raise PellucidError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    numbers = {name: {kind: _numbers(one) for kind, one in movements.items()} for name, movements in measured.items()}
    medians = "; ".join(
        f"{name}, {titles[kind]}: {one['median_attack']:.2g} under attack, {one['median_noise']:.2g} under noise"
        for name, kinds in numbers.items()
        for kind, one in kinds.items()
        if one["median_noise"] is not None
    )
    panels = [
        _panel(scene, f"{name}, {titles[kind]}", attacked.images[chosen], movement)
        for name, movements in measured.items()
        for kind, movement in movements.items()
    ]
    title = f"{scene.title}: movement of explanations"
    subtitle = (
        f"1 − cosine similarity between the explanations of {len(chosen)} test images and of changed images with the "
        "same prediction, whose pixels differ by at most r. Orange: the largest that a search found, a lower bound. "
        f"Gray: mean over random noise of the same size. Medians: {medians}. Below: the median image, before and after "
        f"the attack; both maps share one scale.{scene.scale_note}"
    )
    return Artifact(
        caption=f"{title} while the prediction stays, {len(chosen)} test images. Median 1 − cosine: {medians}.",
        name="explanations",
        figure=movement_histograms(panels, (title, subtitle)),
        numbers={
            "indices": attacked.indices[chosen].tolist(),
            "radii": {kind: json_values(radius) for kind, radius in radii.items()},
            "methods": numbers,
            "refused": refused,
            **scene.pixel_range,
        },
    )


def _measure(
    scene: Scene, name: str, images: Tensor, radii: Mapping[str, Tensor], search: MovementSearch
) -> dict[str, Movement]:
    explain = create_fitted(scene, name, **options_of(scene, name)).analyze
    bounds = scene.test.scale
    return {
        kind: explanation_movement(scene.model, explain, images, radius, pixel_range=bounds, search=search)
        for kind, radius in radii.items()
    }


def _numbers(movement: Movement) -> dict[str, Any]:
    values = {name: getattr(movement, name) for name in LISTS}
    return {
        **{name: json_values(one) for name, one in values.items()},
        **{f"median_{name}": median_of(one) for name, one in values.items()},
    }


def _panel(scene: Scene, title: str, images: Tensor, movement: Movement) -> MovementPanel:
    """Return the panel with the image whose explanation moves as far as that of the median image."""
    example = int(movement.attack.argsort(stable=True)[len(movement.attack) // 2])
    pair = torch.stack([images[example], movement.images[example].to(images)])
    maps = torch.stack([movement.maps[example], movement.moved_maps[example]]).float()
    return MovementPanel(title, movement.attack.numpy(), movement.noise.numpy(), display(scene, pair), maps.numpy())
