"""Load the model named by `--model`, with its weights, preprocessing and class names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.core.errors import ConfigError, ModelError, PellucidError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.seeding import derive_seed, seed_everything
from pellucid.models._build import build_model, takes_classes
from pellucid.models._library import LoadedModel, Wanted, build_filled
from pellucid.models._preprocessing import find_classes, find_preprocessing, remember
from pellucid.models._spec import FUNCTION, REGISTERED, parse_spec
from pellucid.models._weights import check_file, is_weights_file, load_weights, read_weights

__all__ = ["LoadedModel", "check_available", "load_model", "rebuild_model"]

LIBRARY_MODULES = {"torchvision": "_torchvision", "timm": "_timm", "hf": "_transformers"}


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    image_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    seed: int = 0,
    trust: bool = False,
    new_head: bool = False,
) -> LoadedModel:
    """Load the model that `spec` names, in eval mode; its random state is drawn from `seed`.

    Args:
        spec: a registered name, MODULE:FUNCTION or MODULE:CLASS, `torchvision:NAME`, `timm:NAME` or
            `hf:FOLDER-OR-REPOSITORY`. A function receives those of `channels`, `classes` and `image_size` that its
            signature names, and may return a trained model. `pellucid.storage.models.load_model` also takes
            `run:FOLDER`.
        weights: a `.safetensors`, `.pt` or `.pth` file, or the name of weights of torchvision or timm, such as
            `DEFAULT`; None: random weights, except for `hf:` and functions.
        image_shape: channels, height and width of the images, if known.
        classes: number of classes of the data, if known. Ignored with trained weights.
        seed: seed of the random weights.
        trust: import the functions that a run names; without effect here, as only `run:FOLDER` needs it.
        new_head: replace a last layer for another number of classes by a random one; for training.

    Raises `UnknownName` or `ConfigError` for an invalid name or a missing package, `DownloadError`, and `ModelError`
    for weights that do not fit.

    >>> loaded = load_model("torchvision:resnet18", classes=10)
    >>> loaded.model.fc.out_features, loaded.weights
    (10, None)
    """
    kind, argument = parse_spec(spec)
    if kind == "run":
        raise ConfigError(f"{spec} is loaded by pellucid.storage.models.load_model.")
    del trust  # a function given by name is trusted, because the user chose it
    if weights is not None:
        weights = str(Path(weights).expanduser().resolve()) if is_weights_file(str(weights)) else str(weights)
    wanted = Wanted(weights, image_shape, classes, new_head)
    with preserved_random_state():
        seed_everything(derive_seed(seed, "model"))
        load = _load_function if kind in (FUNCTION, REGISTERED) else _library(kind, "load")
        loaded = load(argument, wanted)
    remember(loaded.model, loaded.preprocessing, loaded.classes)
    if loaded.weights is None and kind != FUNCTION and not new_head:
        return replace(loaded, notice="The model has random weights, since none were given; pass --weights.")
    return loaded


def check_available(spec: str, weights: str | None = None) -> None:
    """Raise the errors of `load_model` for names and files that do not exist, before anything is loaded.

    A user's function and the contents of a weights file are only checked when they are loaded.
    """
    kind, argument = parse_spec(spec)
    if weights is not None and is_weights_file(weights):
        check_file(weights)
    if kind in LIBRARY_MODULES:
        _library(kind, "check")(argument, weights)
    elif kind != "run":
        _check_file(spec, weights)


def _check_file(spec: str, weights: str | None) -> None:
    if weights is not None and not is_weights_file(weights):
        raise ConfigError(
            f"--weights {weights} is not a file, and {spec} has no weights with a name; pass a .safetensors, .pt or "
            ".pth file."
        )


def _library(kind: str, action: str) -> Callable[..., Any]:
    """Return the function `check`, `load` or `rebuild` for a kind of model, whose library is imported only now."""
    module = import_module(f"pellucid.models.{LIBRARY_MODULES[kind]}")
    return getattr(module, f"{action}{LIBRARY_MODULES[kind]}")


def rebuild_model(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build the architecture of an earlier `LoadedModel` with random weights, from its `name` and `options`.

    Raises the errors of `build_model`.
    """
    kind, argument = parse_spec(name)
    if kind == "run":
        raise ModelError(f"the model {name} is not an architecture; expected the name of the model in that run.")
    if kind in (FUNCTION, REGISTERED):
        return build_model(name, image_shape, classes, seed)
    with preserved_random_state():
        try:
            return _library(kind, "rebuild")(argument, classes, options or {})
        except PellucidError:
            raise
        except Exception as error:
            raise ModelError(f"the model {name} failed: {type(error).__name__}: {error}.") from error


def _load_function(spec: str, wanted: Wanted) -> LoadedModel:
    """Load a registered model, or one that a user's function returns."""
    _check_file(spec, wanted.weights)

    def build(classes: int | None) -> nn.Module:
        return build_model(spec, wanted.image_shape, classes, seed=None)

    notice = ""
    if wanted.weights is None:
        model = build(wanted.classes)
    elif takes_classes(spec):
        model, notice = build_filled(build, read_weights(wanted.weights), f"--weights {wanted.weights}", wanted)
    else:
        model = build(wanted.classes)
        load_weights(model, read_weights(wanted.weights), f"--weights {wanted.weights}")
    return LoadedModel(
        model=model.eval(),
        preprocessing=find_preprocessing(model),
        classes=find_classes(model),
        name=spec,
        weights=wanted.weights,
        notice=notice,
    )
