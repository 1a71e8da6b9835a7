"""torchvision's classification networks, with the weights, preprocessing and class names of its weights enums."""

import io
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any
from urllib.error import URLError

import torchvision
from torch import Tensor, nn

from pellucid.core.errors import DownloadError, ModelError, UnknownName
from pellucid.models._library import LoadedModel, Wanted, build_filled
from pellucid.models._presets import from_torchvision
from pellucid.models._weights import is_weights_file, read_weights

__all__ = ["check_torchvision", "load_torchvision", "rebuild_torchvision"]

WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Networks with auxiliary outputs in training mode."""
OPTIONS = ("transform_input", "image_size", "input_size")
IMAGENET_CLASSES = 1000


def load_torchvision(name: str, wanted: Wanted) -> LoadedModel:
    """Load `torchvision.models.get_model(name)`, with the weights of a file or of its weights enum.

    Raises `UnknownName` for an unknown model or unknown weights, `DownloadError`, and the errors of
    `read_weights` and `load_weights`.
    """
    check_name(name)
    chosen, tensors, source = None, None, None
    if wanted.weights is not None and is_weights_file(wanted.weights):
        source, tensors = wanted.weights, read_weights(wanted.weights)
    elif wanted.weights is not None:
        chosen = _member(name, wanted.weights)
        source, tensors = str(chosen), _downloaded(chosen)
    options = _options(name.lower(), chosen, wanted, tensors)
    # auxiliary classifiers are built only to accept weights that contain them
    has_auxiliary = tensors is not None and any(key.lower().startswith("aux") for key in tensors)

    def build(classes: int) -> nn.Module:
        return _network(name, classes, options, has_auxiliary=has_auxiliary, initialized=tensors is None)

    if tensors is None:
        model, notice = build(wanted.classes or IMAGENET_CLASSES), ""
    else:
        model, notice = build_filled(build, tensors, f"--weights {source}", wanted)
    _remove_auxiliary(model)
    return LoadedModel(
        model=model.eval(),
        preprocessing=None if chosen is None else from_torchvision(chosen),
        classes=None if chosen is None or notice else tuple(chosen.meta["categories"]),
        name=f"torchvision:{name}",
        weights=source,
        notice=notice,
        options=options,
    )


def check_torchvision(name: str, weights: str | None) -> None:
    """Raise `UnknownName` for a network or weights that torchvision does not have."""
    check_name(name)
    if weights is not None and not is_weights_file(weights):
        _member(name, weights)


def check_name(name: str) -> None:
    """Raise `UnknownName` for a network that torchvision does not have, or that is not a classifier."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        raise UnknownName("classification model of torchvision", name, known)


def rebuild_torchvision(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with the `options` of an earlier `LoadedModel`; its weights are about to be loaded."""
    check_name(name)
    kept = {key: value for key, value in options.items() if key in OPTIONS}
    return _network(name, classes, kept, has_auxiliary=False, initialized=False)


def _network(
    name: str, classes: int, options: Mapping[str, Any], *, has_auxiliary: bool, initialized: bool
) -> nn.Module:
    extra = {"aux_logits": has_auxiliary, "init_weights": initialized} if name.lower() in WITH_AUXILIARY else {}
    try:
        return torchvision.models.get_model(name, num_classes=classes, **options, **extra)
    except Exception as error:
        raise ModelError(f"--model torchvision:{name} failed: {type(error).__name__}: {error}.") from error


def _options(name: str, chosen: Any, wanted: Wanted, tensors: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """Return the architecture options that `chosen` or other weights require."""
    if name in WITH_AUXILIARY:
        return {"transform_input": chosen is not None}
    side = _side(name, chosen, wanted, tensors) if name.startswith(("vit_", "maxvit_")) else None
    if side is None:
        return {}
    return {"image_size": side} if name.startswith("vit_") else {"input_size": [side, side]}


def _side(name: str, chosen: Any, wanted: Wanted, tensors: Mapping[str, Tensor] | None) -> int | None:
    """Return the image size for a network with position embeddings; None for its default."""
    if chosen is not None:
        return int(chosen.meta["min_size"][0])
    if tensors is None:
        return max(wanted.image_shape[1:]) if wanted.image_shape is not None else None
    # one position per patch, and one for the class token
    positions = next((value for key, value in tensors.items() if key.endswith("encoder.pos_embedding")), None)
    if positions is None or positions.ndim != 3:
        return None
    return math.isqrt(positions.shape[1] - 1) * int(name.rpartition("_")[2])


def _remove_auxiliary(model: nn.Module) -> None:
    """Remove the auxiliary outputs, so that the model returns logits in both modes."""
    if getattr(model, "aux_logits", False):
        for name, value in (("aux_logits", False), ("aux1", None), ("aux2", None), ("AuxLogits", None)):
            if hasattr(model, name):
                setattr(model, name, value)


def _member(name: str, weights: str) -> Any:
    """Return a member of the model's weights enum, given as `IMAGENET1K_V1` or `ResNet18_Weights.IMAGENET1K_V1`."""
    enum = torchvision.models.get_model_weights(name)
    owner, _, member = weights.rpartition(".")
    if owner in ("", enum.__name__) and member in enum.__members__:
        return enum[member]
    raise UnknownName(f"member of {enum.__name__}", weights, [*enum.__members__, "FILE.safetensors", "FILE.pt"])


def _downloaded(chosen: Any) -> Mapping[str, Tensor]:
    """Download weights into torch's cache; the checksum in the file's name is verified."""
    try:
        with redirect_stdout(io.StringIO()):  # torch.hub prints the address
            return chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DownloadError(
            f"--weights {chosen} could not be downloaded from {chosen.url}: {error}. Download the file elsewhere, "
            "and pass its path with --weights."
        ) from error
