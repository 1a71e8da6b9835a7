"""Priors of the class prototypes, and the number of search steps."""

import math
from collections.abc import Callable
from typing import Any

from pellucid.core.errors import DataError
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import Scene
from pellucid.synthesis import Prior, synthesise
from pellucid.synthesis.code import Code
from pellucid.synthesis.expert import Expert
from pellucid.synthesis.l2 import L2

__all__ = ["DENSITIES", "brightnesses", "choose_priors"]

DENSITIES = {"expert": "gaussian_mixture", "code": "vae"}
"""Density of each prior that needs one."""
BRIGHTNESSES = 21
"""Number of brightness levels at which the class mean is compared, from black to the maximum."""
IMAGES_FOR_ALL_STEPS = 1200
"""Minimum number of training images for the full number of optimization steps. With fewer, the number of steps shrinks
quadratically, because a network trained on little data does not merit the time."""
LEAST_STEPS = 24
"""Minimum number of steps under a budget; if it does not cover them, fewer classes are searched."""
NO_DENSITY = "The budget (--budget) does not cover fitting a density to the training images."


def choose_priors(
    scene: Scene, allowance: Allowance, classes: list[int]
) -> tuple[int, dict[str, Prior], dict[str, str], dict[str, str]]:
    """Return the number of classes, the priors to search with, and the reasons for leaving out the others.

    The first reasons are those of priors that do not apply, the second those of priors beyond the budget.
    """
    assert scene.train is not None
    shape = scene.train.image_shape
    if allowance.is_limited:
        count, prior = _bounded(scene, allowance, classes, shape)
        return count, {} if prior is None else {"l2": prior}, {}, dict.fromkeys(DENSITIES, NO_DENSITY)
    densities, refused = _fit(scene)
    share = min(1.0, (len(scene.train) / IMAGES_FOR_ALL_STEPS) ** 2)
    priors: dict[str, Prior] = {"l2": L2(image_shape=shape, steps=max(5, round(share * L2.steps)))}
    if "expert" in densities:
        priors["expert"] = Expert(density=densities["expert"], steps=max(5, round(share * Expert.steps)))
    if "code" in densities:
        priors["code"] = Code(density=densities["code"], steps=max(5, round(share * Code.steps)))
    return len(classes), priors, refused, {}


def brightnesses(scene: Scene) -> int:
    """Return the number of brightness levels at which the class mean is compared."""
    return BRIGHTNESSES if scene.budget is None else 5


def _fit(scene: Scene) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the densities by prior, and the reason for each one that cannot be fitted."""
    densities, refused = {}, {}
    for way, name in DENSITIES.items():
        try:
            densities[way] = scene.density(name)
        except DataError as error:
            refused[way] = str(error)
    return densities, refused


def _bounded(
    scene: Scene, allowance: Allowance, classes: list[int], shape: tuple[int, int, int]
) -> tuple[int, L2 | None]:
    """Return how many classes can be searched with at least `LEAST_STEPS`, and the prior with its number of steps."""

    def prior(steps: int, starts: int = 1) -> L2:
        # a spectrum, because the search in pixels first ranks a thousand random images
        return L2(image_shape=shape, steps=steps, starts=starts, refined_share=0.0, parametrisation="fourier")

    def search(steps: int) -> Callable[[], object]:
        return lambda: synthesise(scene.model, classes[:1], prior(steps), seed=scene.seed)

    once, thrice = (allowance.price(f"prototypes {steps}", search(steps)) for steps in (1, 3))
    step = (thrice - once) / 2
    if step <= 0:  # no matrix products to count
        return len(classes), prior(L2.steps)
    for count in range(len(classes), 0, -1):
        # in addition to the search, the class means are evaluated at every brightness
        rest = allowance.left - count * (once + brightnesses(scene) + 2) - once
        steps = math.floor(rest / (count * step))
        if steps >= LEAST_STEPS:
            starts = max(1, min(L2.starts, steps // L2.steps))
            return count, prior(min(steps, L2.steps), starts)
    return 0, None
