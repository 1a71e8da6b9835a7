"""Detect methods that ignore the image: their map of a class is the same for every image."""

from pellucid.core.errors import PellucidError
from pellucid.evaluation._case import Case, Explainer

__all__ = ["ignores_the_image"]

IMAGES = 4
"""Number of images whose maps are compared with that of the first one."""
ROUNDING = 1e-5
"""Largest difference relative to the largest relevance; batches of different images round differently."""


def ignores_the_image(case: Case, method: Explainer) -> bool | None:
    """Return True if the maps of one class are equal for different images; None without two different images.

    Such a map cannot explain a prediction. Deconvnet is an example, on a network without max pooling: it ignores which
    units are active, so it propagates every logit back in the same way.
    """
    images = case.images
    differs = (images != images[:1]).flatten(1).any(1).nonzero()[:, 0].tolist()
    if not differs:
        return None
    # evenly spread, since neighbors may be alike
    count = min(IMAGES, len(differs))
    chosen = [0, *(differs[number * len(differs) // count] for number in range(count))]
    try:
        if method.has_baselines:  # one per image, so all images are explained
            maps = method(images, case.targets[:1].expand(len(images)))[chosen]
        else:
            maps = method(images[chosen], case.targets[:1].expand(len(chosen)))
    except PellucidError:
        return None  # the class of the first image cannot be explained for another one
    return bool((maps[1:] - maps[:1]).abs().max() <= ROUNDING * maps.abs().max())
