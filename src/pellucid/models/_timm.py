"""timm's networks, with the preprocessing and class names of their pretrained configurations."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from pellucid.core.errors import DownloadError, ModelError, UnknownName
from pellucid.core.importing import import_optional
from pellucid.models._library import LoadedModel, Wanted, build_filled, new_head_notice
from pellucid.models._presets import from_timm
from pellucid.models._weights import head_shapes, is_weights_file, read_weights

__all__ = ["check_timm", "classes_of_timm", "load_timm", "rebuild_timm"]

OPTIONS = ("in_chans", "img_size")


def load_timm(name: str, wanted: Wanted) -> LoadedModel:
    """Load `timm.create_model(name)`, with its pretrained weights, those of a file, or random ones.

    Raises `ConfigError` without timm, `UnknownName` for an unknown name, `DownloadError`, and the errors
    of `read_weights` and `load_weights`.
    """
    timm = import_optional("timm", f"--model timm:{name}")
    notice, source = "", None
    if wanted.weights is None:
        _check_name(timm, name)
        options = _options(timm, name, wanted)
        model = _created(name, wanted.classes, options)
    elif is_weights_file(wanted.weights):
        _check_name(timm, name)
        source, tensors = wanted.weights, read_weights(wanted.weights)
        options = {}

        def build(classes: int) -> nn.Module:
            return _created(name, classes, {})

        model, notice = build_filled(build, tensors, f"--weights {source}", wanted)
    else:
        name = source = _pretrained_name(timm, name, wanted.weights)
        options = {}
        # timm replaces the last layer itself
        model = _created(name, wanted.classes if wanted.new_head else None, options, pretrained=True)
        trained = model.pretrained_cfg["num_classes"]
        if model.num_classes != trained:
            head = head_shapes(lambda classes: _created(name, classes, {}))
            notice = new_head_notice(trained, model.num_classes, head)
    config = timm.data.resolve_data_config({}, model=model)
    return LoadedModel(
        model=model.eval(),
        preprocessing=from_timm(config, f"timm:{name}"),
        classes=classes_of_timm(model) if source == name and not notice else None,
        name=f"timm:{name}",
        weights=source,
        notice=notice,
        options=options,
    )


def check_timm(name: str, weights: str | None) -> None:
    """Raise `UnknownName` for a network or weights that timm does not have, and `ConfigError` without timm."""
    timm = import_optional("timm", f"--model timm:{name}")
    if weights is None or is_weights_file(weights):
        _check_name(timm, name)
    else:
        _pretrained_name(timm, name, weights)


def rebuild_timm(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with the `options` of an earlier `LoadedModel`."""
    import_optional("timm", f"the model timm:{name}")
    return _created(name, classes, {key: value for key, value in options.items() if key in OPTIONS})


def _options(timm: Any, name: str, wanted: Wanted) -> dict[str, Any]:
    """Return the options that fit a network with random weights to the images."""
    if wanted.image_shape is None:
        return {}
    channels, height, width = wanted.image_shape
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"in_chans": channels} | ({"img_size": [height, width]} if config and config.fixed_input_size else {})


def _created(name: str, classes: int | None, options: Mapping[str, Any], *, pretrained: bool = False) -> Any:
    try:
        return import_module("timm").create_model(name, pretrained=pretrained, num_classes=classes, **options)
    except OSError as error:  # also every error of a download
        raise DownloadError(
            f"the weights of timm:{name} could not be downloaded: {str(error).splitlines()[0].rstrip('.')}. Download "
            "them elsewhere, and pass the file with --weights."
        ) from error
    except Exception as error:
        raise ModelError(f"--model timm:{name} failed: {type(error).__name__}: {error}.") from error


def _check_name(timm: Any, name: str) -> None:
    """Raise `UnknownName` for a name without a model; the Hub and local folders are left to timm."""
    if ":" in name:
        return
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=8, cutoff=0.4)
        raise UnknownName("model of timm", name, [*near, "and others of timm.list_models()"])


def _pretrained_name(timm: Any, name: str, weights: str) -> str:
    """Return the name with the tag of its weights: `DEFAULT`, a tag such as `a1_in1k`, or `NAME.TAG`."""
    if ":" in name:
        return name
    architecture, _, tag = name.partition(".")
    _check_name(timm, name)
    known = timm.list_pretrained(f"{architecture}.*")
    wanted = weights.removeprefix(f"{architecture}.")
    if weights == "DEFAULT" and (not tag or name in known):
        return name
    if f"{architecture}.{wanted}" in known:
        return f"{architecture}.{wanted}"
    tags = ["DEFAULT", *(one.partition(".")[2] for one in known)]
    raise UnknownName(f"tag of pretrained weights of {architecture}", weights, tags)


def classes_of_timm(model: Any) -> tuple[str, ...] | None:
    """Return the class names of a network with the classes of its pretrained configuration; None if unknown."""
    config, count = model.pretrained_cfg, getattr(model, "num_classes", None)
    names = config.get("label_names")
    if names:
        descriptions = config.get("label_descriptions") or {}
        found = tuple(str(descriptions.get(name, name)) for name in names)
        return found if len(found) == count else None
    data = import_module("timm.data")
    subset = data.infer_imagenet_subset(model)
    if not subset or count != config.get("num_classes"):
        return None
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))
