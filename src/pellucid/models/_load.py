"""Load the model named by `--model`, with its weights, preprocessing and class names."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from pellucid.core.errors import ConfigError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.seeding import derive_seed, seed_everything
from pellucid.models._build import build_model, takes_classes
from pellucid.models._library import LoadedModel, Wanted
from pellucid.models._preprocessing import find_classes, find_preprocessing, remember
from pellucid.models._spec import FUNCTION, REGISTERED, parse_spec
from pellucid.models._weights import is_weights_file, load_weights, matching_classes, read_weights

__all__ = ["LoadedModel", "load_model"]


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
        classes: number of classes of the data, if known. Trained weights decide themselves.
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
    del trust  # a function given by name is the user's own
    if weights is not None:
        weights = str(Path(weights).expanduser().resolve()) if is_weights_file(str(weights)) else str(weights)
    wanted = Wanted(weights, image_shape, classes, new_head)
    with preserved_random_state():
        seed_everything(derive_seed(seed, "model"))
        loaded = _loader(kind)(argument if kind not in (FUNCTION, REGISTERED) else spec, wanted)
    remember(loaded.model, loaded.preprocessing, loaded.classes)
    return loaded


def _loader(kind: str) -> Callable[[str, Wanted], LoadedModel]:
    """Return the function that loads models of a kind; their libraries are imported only now."""
    if kind == "torchvision":
        from pellucid.models._torchvision import load_torchvision

        return load_torchvision
    if kind == "timm":
        from pellucid.models._timm import load_timm

        return load_timm
    if kind == "hf":
        from pellucid.models._transformers import load_transformers

        return load_transformers
    if kind == "run":
        raise ConfigError("run:FOLDER is loaded by pellucid.storage.models.load_model.")
    return _load_function


def _load_function(spec: str, wanted: Wanted) -> LoadedModel:
    """Load a registered model, or one that a user's function returns."""
    if wanted.weights is not None and not is_weights_file(wanted.weights):
        raise ConfigError(
            f"--weights {wanted.weights} is not a file, and {spec} has no weights with a name; pass a .safetensors, "
            ".pt or .pth file."
        )

    def build(classes: int | None) -> nn.Module:
        return build_model(spec, wanted.image_shape, classes, seed=None)

    if wanted.weights is None:
        model = build(wanted.classes)
    else:
        tensors = read_weights(wanted.weights)
        classes = wanted.classes
        if not wanted.new_head and takes_classes(spec):
            classes = matching_classes(build, tensors) or classes
        model = build(classes)
        load_weights(model, tensors, f"--weights {wanted.weights}")
    return LoadedModel(
        model=model.eval(),
        preprocessing=find_preprocessing(model),
        classes=find_classes(model),
        name=spec,
        weights=wanted.weights,
    )
