"""Prototypes of any model: the public function, which finds the priors' densities where they are kept."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError
from pellucid.core.origin import Origin, origin_of
from pellucid.densities import Density
from pellucid.density_store import fit_density, load_density
from pellucid.synthesis import PRIORS, Prior, Prototypes, synthesise
from pellucid.synthesis._goal import Unit

__all__ = ["prototypes"]

DEFAULT_DENSITY = {"expert": "gaussian_mixture", "code": "vae"}


def prototypes(
    model: nn.Module,
    classes: Sequence[int] | Tensor | int | None = None,
    *,
    prior: str | Prior = "l2",
    seed: int = 0,
    unit: Unit | None = None,
    diversity: int = 1,
    **options: Any,
) -> Prototypes:
    """What the network thinks each class looks like: the image with the largest log p(class | x) + weight · log p(x).

    All classes are searched in one batch. Three ways differ in their log p(x): `l2` needs no data; `expert` takes a
    density of the data; `code` searches among the images that a VAE's decoder makes.

    Args:
        model: any module from images to logits, handed back as it came.
        classes: one index or several; None: all.
        prior: its name, or a prior with its own knobs, such as `pellucid.synthesis.l2.L2(image_shape=(3, 64, 64))`.
        seed: equal seeds give equal images, on the CPU bit for bit.
        unit: in place of classes, (layer, channel), (layer, channels) or a function of the model's outputs that gives
            one number per image; a channel's value is its mean over the image.
        diversity: so many different prototypes of each class.
        options: knobs of a prior that is given by name, such as `weight`, `steps`; for `l2` also `image_shape`
            (channels, height, width), known for models of `pellucid.load_run`; for the others `density` (its name, or
            one from `fit_density`) and `images`, to which it is fitted where the model's run left none.

    Raises `UnknownName` for a prior, layer or density there is not, `ConfigError` for an option that does not fit or is
    missing, `ShapeError` and `ModelError` where the model and the images do not fit, `UnsupportedOperation` where there
    is no gradient.

    >>> import torch
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> found = prototypes(model, prior="l2", image_shape=(1, 8, 8), steps=20)
    >>> found.images.shape, bool((found.log_probability > -1).all())
    (torch.Size([3, 1, 8, 8]), True)
    """
    if isinstance(prior, str):
        prior = _make_prior(prior, model, seed, options)
    elif options:
        raise ConfigError(f"the option {next(iter(options))!r} came with a prior that has its own knobs; set it there.")
    return synthesise(model, classes, prior, seed=seed, unit=unit, diversity=diversity)


def _make_prior(name: str, model: nn.Module, seed: int, options: dict[str, Any]) -> Prior:
    kind, origin = PRIORS[name], origin_of(model)
    extra = ["images"] if kind.needs_density else []
    unknown = [option for option in options if option not in (*kind.options(), *extra)]
    if unknown:
        known = ", ".join([*extra, *kind.options()])
        raise ConfigError(f"the prior {name!r} has no option {unknown[0]!r}; its options are: {known}.")
    if kind.needs_density:
        options = {**options, "density": _density(name, options, origin, seed)}
        options.pop("images", None)
    elif "image_shape" not in options:
        if origin is None:
            raise ConfigError(
                f"prior={name!r} needs the shape of the images, which this model does not tell; "
                "give image_shape=(channels, height, width)."
            )
        options = {**options, "image_shape": origin.image_shape}
    return kind(**options)


def _density(prior: str, options: dict[str, Any], origin: Origin | None, seed: int) -> Density:
    """The density that was given, or named and fitted to given images, or left by the model's run."""
    given = options.get("density", DEFAULT_DENSITY.get(prior, "vae"))
    if isinstance(given, Density):
        return given
    images: ImageSet | Tensor | None = options.get("images")
    if images is not None:
        return fit_density(given, images, seed=seed)
    if origin is not None and origin.save is not None:
        return load_density(origin.save, given)
    raise ConfigError(
        f"prior={prior!r} needs a density of the data; give images=(training images, floats in [0, 1]), or "
        f"density=pellucid.fit_density({given!r}, images), or a model that pellucid.load_run opened."
    )
