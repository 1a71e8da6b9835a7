"""The objective of prototypes, evaluated on given images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.isolation import isolated
from pellucid.core.types import Images
from pellucid.engine.model import device_of, frozen, unwrap
from pellucid.synthesis._goal import Classes, Response, make_goal
from pellucid.synthesis._prior import Prior

__all__ = ["objective"]

AT_ONCE = 500


def objective(
    model: nn.Module,
    images: Images,
    classes: Classes,
    prior: Prior,
    *,
    unit: Response | None = None,
) -> Float[Tensor, "batch target"]:
    """Compute log p(class | x) + weight · log p(x), in nats, of each image for each class: the prototype objective.

    The prior `code` scores only images that its decoder can generate, so x is then the reconstruction of each image.

    >>> from pellucid.synthesis.l2 import L2
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> objective(model, torch.rand(5, 1, 2, 2), [0, 2], L2(image_shape=(1, 2, 2))).shape
    torch.Size([5, 2])
    """
    model = unwrap(model)
    device = device_of(model)
    with isolated(), frozen(model):
        prior, parts = prior.on(device), []
        goal = make_goal(model, classes, unit, images[:2].to(device))
        with torch.no_grad():
            for part in images.split(AT_ONCE):
                shown, log_prior = prior.of_images(part.to(device))
                parts.append((goal.read(shown)[0] + prior.weight * log_prior[:, None]).cpu())
        return torch.cat(parts)
