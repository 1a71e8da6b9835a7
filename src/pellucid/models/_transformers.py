"""Image classifiers of transformers, from a local folder or the Hugging Face Hub."""

import io
import json
import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.core.errors import ConfigError, DownloadError, ModelError
from pellucid.core.importing import import_optional
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._library import LoadedModel, Wanted, build_filled, new_head_notice
from pellucid.models._preprocessing import classes_of_labels
from pellucid.models._presets import from_processor
from pellucid.models._weights import head_shapes, is_weights_file, read_weights, shortened

__all__ = ["check_transformers", "load_transformers", "rebuild_transformers"]

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
NOT_ARCHITECTURE = (
    *("auto_map", "attn_implementation", "experts_implementation", "quantization_config", "dtype"),
    *("id2label", "label2id"),
)
"""Config settings that are neither stored in run.json nor read from it."""


def load_transformers(argument: str, wanted: Wanted) -> LoadedModel:
    """Load an image classifier from a folder or a repository, with its own weights or those of a file.

    Only safetensors are read, and code in a repository is never run. Raises `ConfigError` without transformers or for a
    folder without a model, `DownloadError`, and `ModelError` for weights that don't fit.
    """
    transformers = import_optional("transformers", f"--model hf:{argument}")
    place, name = _place(argument)
    config = _guarded(name, lambda: transformers.AutoConfig.from_pretrained(place, trust_remote_code=False))
    _check_weights(name, wanted.weights)

    def build(classes: int) -> Any:
        return _network(transformers, config, classes)

    trained, labels = config.num_labels, classes_of_labels(dict(config.id2label))
    if wanted.weights is not None:
        source = wanted.weights
        model, notice = build_filled(build, read_weights(source), f"--weights {source}", wanted)
        labels = labels if config.num_labels == trained else None
    else:
        source = name
        classes = wanted.classes if wanted.new_head and wanted.classes else trained
        model = _pretrained(transformers, place, name, classes, build, new_head=wanted.new_head)
        notice = "" if classes == trained else new_head_notice(trained, classes, head_shapes(build))
    return LoadedModel(
        model=model.eval(),
        preprocessing=_processor(transformers, place, name),
        classes=None if notice else labels,
        name=name,
        weights=source,
        notice=notice,
        options={"config": _harmless(json.loads(config.to_json_string(use_diff=True)))},
    )


def check_transformers(argument: str, weights: str | None) -> None:
    """Raise `ConfigError` without transformers, and for a folder or repository that cannot hold a model."""
    import_optional("transformers", f"--model hf:{argument}")
    _, name = _place(argument)
    _check_weights(name, weights)


def _check_weights(name: str, weights: str | None) -> None:
    if weights is not None and not is_weights_file(weights):
        raise ConfigError(f"--weights {weights} is not a file; {name} has its own weights, so omit --weights.")


def rebuild_transformers(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with the `options` of an earlier `LoadedModel`."""
    transformers = import_optional("transformers", f"the model hf:{name}")
    settings = dict(options.get("config", {}))
    config = _guarded(f"hf:{name}", lambda: transformers.AutoConfig.for_model(**_harmless(settings)))
    return _guarded(f"hf:{name}", lambda: _network(transformers, config, classes))


def _network(transformers: Any, config: Any, classes: int) -> Any:
    config.num_labels = classes
    try:
        return transformers.AutoModelForImageClassification.from_config(
            config, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:
        raise ModelError(f"transformers cannot build {type(config).__name__}: {_first_line(error)}") from error


def _harmless(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that describe the architecture, without those that name code or choose a number format."""
    return {
        key: _harmless(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if not str(key).startswith("_") and key not in NOT_ARCHITECTURE
    }


def _place(argument: str) -> tuple[str, str]:
    """Return the folder or repository, and the value of `--model` with an absolute path."""
    folder = Path(argument).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"--model hf:{argument}: the folder has no config.json; use a folder of save_pretrained.")
        return str(folder.resolve()), f"hf:{folder.resolve()}"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", argument) or argument.startswith("."):
        raise ConfigError(f"--model hf:{argument}: there is no such folder, and it is not the name of a repository.")
    return argument, f"hf:{argument}"


def _guarded(name: str, load: Any) -> Any:
    """Call `load` without messages, and with the errors of transformers as ours."""
    try:
        return _quiet(load)
    except OSError as error:
        kind = ConfigError if Path(name.removeprefix("hf:")).is_dir() else DownloadError
        raise kind(f"--model {name} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:
        raise ModelError(f"--model {name} failed: {type(error).__name__}: {_first_line(error)}") from error


def _quiet(load: Any) -> Any:
    logging = import_module("transformers.utils.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # silence its long report on a new last layer
    try:
        return load()
    finally:
        logging.set_verbosity(verbosity)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _pretrained(transformers: Any, place: str, name: str, classes: int, build: Any, *, new_head: bool) -> Any:
    """Load the model with its weights; raises `ModelError` if some parameters would stay random."""
    loader = transformers.AutoModelForImageClassification

    def load() -> Any:
        with redirect_stderr(io.StringIO()):  # progress bars
            return loader.from_pretrained(
                place,
                num_labels=classes,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )

    model, report = _guarded(name, load)
    mismatched = (key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"])
    random = {*report["missing_keys"], *mismatched}
    if new_head:
        random -= head_shapes(build).keys()
    if random:
        raise ModelError(
            f"the weights of {name} do not fit: {len(random)} tensors would stay random: {shortened(sorted(random))}. "
            "Use the folder of a fine-tuned image classifier."
        )
    return model


def preprocessing_of(place: str) -> Preprocessing | None:
    """Return the preprocessing of a local folder or a cached repository; None if it has no image processor."""
    loader = import_module("transformers").AutoImageProcessor
    try:
        processor = _quiet(lambda: loader.from_pretrained(place, trust_remote_code=False, local_files_only=True))
    except Exception:  # noqa: BLE001  (whatever is wrong with the folder, the model itself is in memory)
        return None
    return from_processor(processor, f"hf:{place}")


def _processor(transformers: Any, place: str, name: str) -> Preprocessing | None:
    """Return the preprocessing of the folder's or repository's image processor; None if it has none."""
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in PROCESSOR_FILES):
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(
            f"the image processor of {name} cannot be loaded: {type(error).__name__}: {_first_line(error)}"
        ) from error
    return from_processor(processor, name)
