"""Class prototypes of any model: the public function, which also locates the densities that some priors need."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError
from pellucid.core.options import check_argument
from pellucid.core.origin import Origin, origin_of
from pellucid.densities import Density
from pellucid.engine.inputs import check_is_model
from pellucid.engine.model import Network, unwrap
from pellucid.storage.densities import fit_density, load_density
from pellucid.synthesis import PRIORS, Prior, Prototypes, synthesise
from pellucid.synthesis._goal import Classes, Response

__all__ = ["prototypes"]

DEFAULT_DENSITY = {"expert": "gaussian_mixture", "code": "vae"}


def prototypes(
    model: Network,
    classes: Classes = None,
    *,
    prior: str | Prior = "l2",
    seed: int = 0,
    unit: Response | None = None,
    diversity: int = 1,
    **options: Any,
) -> Prototypes:
    """Synthesize class prototypes: the images with the largest log p(class | x) + weight · log p(x).

    All classes are optimized in one batch. The priors differ in log p(x): `l2` needs no data, `expert` uses a density
    fitted to the data, and `code` searches the latent space of a VAE.

    Args:
        model: any module from images to logits; it is not modified.
        classes: one class index or several; None: all classes. A hidden `pellucid.Unit`, or several, takes their place.
        prior: a prior's name, or a configured prior such as `pellucid.synthesis.l2.L2(image_shape=(3, 64, 64))`.
        seed: random seed; equal seeds give equal images, bit for bit on the CPU.
        unit: alternative to `classes`: (layer, channel), (layer, channels), or a function of the model's outputs that
            returns one number per image; a channel's value is its mean over the image.
        diversity: number of different prototypes per class.
        options: hyperparameters of a prior given by name, such as `weight` and `steps`. `l2` also takes `image_shape`
            (channels, height, width), which is known for models from `pellucid.load_run`. The others take `density` (a
            name, or a density from `fit_density`) and `images`, to which a density is fitted if the model's run saved
            none.

    Raises `UnknownName` for an unknown prior, layer or density; `ConfigError` for an invalid or missing option;
    `ShapeError` or `ModelError` if the model rejects the images; `UnsupportedOperation` if there is no gradient.

    >>> import torch
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> result = prototypes(model, prior="l2", image_shape=(1, 8, 8), steps=20)
    >>> result.images.shape, bool((result.log_probability > -1).all())
    (torch.Size([3, 1, 8, 8]), True)
    """
    model = unwrap(model)
    check_is_model(unwrap(model))
    check_argument("prototypes", "seed", seed, int)
    if isinstance(prior, str):
        prior = _make_prior(prior, model, seed, options)
    elif options:
        raise ConfigError(f"option {next(iter(options))!r} was given with a prior object; set it on that object.")
    return synthesise(model, classes, prior, seed=seed, unit=unit, diversity=diversity)


def _make_prior(name: str, model: nn.Module, seed: int, options: dict[str, Any]) -> Prior:
    kind, origin = PRIORS[name], origin_of(model)
    extra = ["images"] if kind.needs_density else []
    unknown = [option for option in options if option not in (*kind.options(), *extra)]
    if unknown:
        known = ", ".join([*extra, *kind.options()])
        raise ConfigError(f"the prior {name!r} has no option {unknown[0]!r}; available: {known}.")
    if kind.needs_density:
        options = {**options, "density": _density(name, options, origin, seed)}
        options.pop("images", None)
    elif "image_shape" not in options:
        if origin is None:
            raise ConfigError(
                f"prior={name!r} needs the image shape, which is unknown for this model; "
                "give image_shape=(channels, height, width)."
            )
        options = {**options, "image_shape": origin.image_shape}
    if "image_shape" in options:
        options["image_shape"] = _checked_shape(options["image_shape"])
    return kind(**options)


def _checked_shape(shape: object) -> tuple[int, int, int]:
    """Return the image shape; `ConfigError` for the shapes of signals, volumes and tables, which have no prior."""
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(
            f"got image_shape={shape!r}; expected positive (channels, height, width), since prototypes are images: "
            "there are no priors for signals, volumes and tables."
        )
    return sizes


def _density(prior: str, options: dict[str, Any], origin: Origin | None, seed: int) -> Density:
    """Return the given density, or fit the named one to the given images, or load the one saved by the model's run."""
    given = options.get("density", DEFAULT_DENSITY.get(prior, "vae"))
    if isinstance(given, Density):
        return given
    images: ImageSet | Tensor | None = options.get("images")
    if images is not None:
        return fit_density(given, images, seed=seed)
    if origin is not None and origin.save is not None:
        return load_density(origin.save, given)
    raise ConfigError(
        f"prior={prior!r} needs a density of the data; give images=(training images, floats in [0, 1]), "
        f"density=pellucid.fit_density({given!r}, images), or a model from pellucid.load_run."
    )
