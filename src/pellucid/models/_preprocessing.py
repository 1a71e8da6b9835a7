"""Choice of a model's preprocessing and class names, from its library or the user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from PIL import Image
from torch import Tensor, nn

from pellucid.core.errors import ConfigError
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._presets import from_function, from_processor, from_timm, from_torchvision

__all__ = ["choose_preprocessing", "find_classes", "find_preprocessing", "remember"]

Function: TypeAlias = Callable[[Image.Image], Tensor]
"""Function from a PIL image to the model's input."""


@dataclass(frozen=True)
class _Known:
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None


# weak keys: an entry disappears with its model
_KNOWN: "WeakKeyDictionary[nn.Module, _Known]" = WeakKeyDictionary()


def remember(model: nn.Module, preprocessing: Preprocessing | None, classes: tuple[str, ...] | None) -> None:
    """Record what `find_preprocessing` and `find_classes` return for a model, as long as it is alive."""
    _KNOWN[model] = _Known(preprocessing, classes)


def find_preprocessing(model: nn.Module) -> Preprocessing | None:
    """Return the preprocessing of a model that pellucid loaded, or of a network of timm or transformers.

    None if it is unknown, as for torchvision's networks, which don't record the origin of their weights. A network of
    transformers has that of the folder or cached repository that it was loaded from. Raises `ConfigError` if its
    image processor cannot be used.
    """
    if (known := _KNOWN.get(model)) is not None:
        return known.preprocessing
    if isinstance(getattr(model, "pretrained_cfg", None), dict):
        config = import_module("timm.data").resolve_data_config({}, model=model)
        return from_timm(config, f"timm's {type(model).__name__}")
    place = getattr(model, "name_or_path", None)
    if type(model).__module__.startswith("transformers.") and isinstance(place, str) and place:
        return import_module("pellucid.models._transformers").preprocessing_of(place)
    return None


def find_classes(model: nn.Module) -> tuple[str, ...] | None:
    """Return the class names of a model that pellucid loaded, or of a network of timm or transformers; None if unknown.

    >>> find_classes(nn.Linear(2, 3)) is None
    True
    """
    if (known := _KNOWN.get(model)) is not None:
        return known.classes
    if isinstance(getattr(model, "pretrained_cfg", None), dict):
        from pellucid.models._timm import classes_of_timm

        return classes_of_timm(model)
    labels = getattr(getattr(model, "config", None), "id2label", None)
    return None if labels is None else classes_of_labels(labels)


def classes_of_labels(labels: dict[Any, Any]) -> tuple[str, ...] | None:
    """Return the class names of an `id2label`; None for the placeholder names of transformers (LABEL_0, …)."""
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return None if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def choose_preprocessing(
    model: nn.Module,
    known: Preprocessing | None = None,
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    preprocess: Any = None,
    image_size: int | None = None,
    crop: int | None = None,
) -> "Preprocessing | Function":
    """Return the preprocessing of a model: the user's values, otherwise those of its library.

    Args:
        model: the model, not adapted.
        known: preprocessing found while loading the model; None: ask `find_preprocessing`.
        mean: mean of each channel in displayed units, or one for all; replaces the known one.
        std: standard deviation of each channel, or one for all.
        preprocess: a `Preprocessing`, a member of a weights enum of torchvision or its `transforms()`, a `Compose` of
            torchvision, an image processor of transformers, or any function from a PIL image to the model's input.
        image_size: side of the model's input; with `crop`, length of the image's shorter side before the crop.
        crop: side of the center crop.

    A function without `mean` and `std` is returned as it is, as its normalization is unknown. If nothing is known,
    images keep their size, and their values in [0, 1] are the model's input.

    Raises `ConfigError` for values that contradict each other.

    >>> steps = choose_preprocessing(nn.Flatten(), mean=0.5, std=0.25, image_size=256, crop=224)
    >>> steps.mean, steps.resize, steps.crop
    ((0.5,), 256, (224, 224))
    """
    mean, std = _values(mean), _values(std)
    if (mean is None) != (std is None):
        given, missing = ("mean", "std") if std is None else ("std", "mean")
        raise ConfigError(f"{given} is given without {missing}; normalization needs both.")
    if preprocess is not None:
        steps = _given(preprocess, mean, std)
    else:
        steps = known or _found(model, is_replaced=mean is not None) or Preprocessing()
    if not isinstance(steps, Preprocessing):
        if image_size is not None or crop is not None:
            raise ConfigError("image_size and crop cannot change a function; leave them out, or change preprocess=.")
        return steps
    if (mean is not None and mean != steps.mean) or (std is not None and std != steps.std):
        steps = _renormalized(steps, mean, std)
    return _sized(steps, image_size, crop)


def _found(model: nn.Module, *, is_replaced: bool) -> Preprocessing | None:
    try:
        return find_preprocessing(model)
    except ConfigError:
        if is_replaced:  # the error suggests passing mean and std
            return None
        raise


def _values(given: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return (float(given),) if isinstance(given, int | float) else tuple(float(value) for value in given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected a number, or one number per channel, for mean and std, got {given!r}.") from error


def _given(preprocess: Any, mean: Any, std: Any) -> "Preprocessing | Function":
    """Return the steps that the argument `preprocess` describes."""
    if isinstance(preprocess, Preprocessing):
        return preprocess
    if hasattr(preprocess, "transforms") and hasattr(preprocess, "meta"):
        return from_torchvision(preprocess)
    if all(hasattr(preprocess, name) for name in ("resize_size", "crop_size", "mean", "std")):
        return from_torchvision(preprocess)
    if hasattr(preprocess, "do_normalize") and hasattr(preprocess, "image_mean"):
        return from_processor(preprocess, type(preprocess).__name__)
    if not callable(preprocess):
        raise ConfigError(
            f"preprocess is a {type(preprocess).__name__}; expected a Preprocessing, a weights enum member or "
            "transforms of torchvision, an image processor, or a function from a PIL image to the model's input."
        )
    source = getattr(preprocess, "__name__", type(preprocess).__name__)
    if mean is None:
        mean, std = _normalization_of(preprocess)
    return preprocess if mean is None else from_function(preprocess, mean, std, source)


def _normalization_of(transform: Any) -> tuple[Any, Any]:
    """Return mean and std of the `Normalize` that ends a `Compose` of torchvision; None twice without one."""
    steps = getattr(transform, "transforms", None)
    last: Any = steps[-1] if isinstance(steps, list | tuple) and steps else None
    if type(last).__name__ != "Normalize" or not (hasattr(last, "mean") and hasattr(last, "std")):
        return None, None
    return tuple(map(float, last.mean)), tuple(map(float, last.std))


def _renormalized(steps: Preprocessing, mean: Any, std: Any) -> Preprocessing:
    return replace(steps, mean=mean, std=std, source=f"{steps.source}, mean and std given".removeprefix(", "))


def _sized(steps: Preprocessing, image_size: int | None, crop: int | None) -> Preprocessing:
    """Return the steps with another input size."""
    if image_size is None and crop is None:
        return steps
    for name, value in (("image_size", image_size), ("crop", crop)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected a number of pixels, at least 1.")
    source = f"{steps.source}, size given".removeprefix(", ")
    if image_size is not None and crop is not None:
        if crop > image_size:
            raise ConfigError(f"crop {crop} is larger than image_size {image_size}, the shorter side before the crop.")
        return replace(steps, resize=image_size, crop=(crop, crop), function=None, source=source)
    if crop is not None:
        shorter = min(steps.resize) if isinstance(steps.resize, tuple) else steps.resize
        if shorter is not None and crop > shorter:
            raise ConfigError(
                f"crop {crop} is larger than {shorter}, the size before the crop ({steps.source}); give image_size too."
            )
        return replace(steps, crop=(crop, crop), function=None, source=source)
    assert image_size is not None
    if steps.crop is None or not isinstance(steps.resize, int):
        return replace(steps, resize=(image_size, image_size), crop=None, function=None, source=source)
    # keep the ratio of resize to crop
    resize = round(steps.resize * image_size / min(steps.crop))
    return replace(steps, resize=max(resize, image_size), crop=(image_size, image_size), function=None, source=source)
