"""Read weights from a file without unpickling code, and load them into a model with every mismatch listed."""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, PellucidError

__all__ = [
    "SUFFIXES",
    "check_file",
    "head_shapes",
    "is_weights_file",
    "load_weights",
    "matching_classes",
    "read_weights",
    "shortened",
]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Suffixes of weights files; without one, `--weights` is the name of a library's weights."""
NESTED = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which training scripts nest the weights in a checkpoint."""
PREFIX = re.compile(r"^(?:module|_orig_mod|model)\.")
"""Prefix from DataParallel, `torch.compile` or a surrounding module such as Lightning's."""
MOST_PREFIXES = 3
LISTED = 5
"""Maximum number of tensor names in a message."""


def is_weights_file(weights: str) -> bool:
    """Return True if `weights` is a path of a weights file, False if it is the name of weights of a library.

    >>> is_weights_file("best.safetensors"), is_weights_file("IMAGENET1K_V1")
    (True, False)
    """
    return weights.lower().endswith(SUFFIXES) or "/" in weights or Path(weights).is_file()


def check_file(path: str | Path) -> Path:
    """Return the path of a weights file; raises `ConfigError` if it does not exist."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"--weights {path} is not a file; expected a file that ends in {', '.join(SUFFIXES)}.")
    return path


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `.pt` or `.pth` file opened with `weights_only=True`.

    A dict of weights nested under `state_dict` or `model` is found. Raises `ConfigError` if the file cannot be read,
    and `ModelError` if it needs unpickling of code or has no weights.
    """
    path = check_file(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConfigError(f"--weights {path} is damaged or not a safetensors file ({error}).") from error
    except OSError as error:
        raise ConfigError(f"--weights {path} cannot be read: {error.strerror or error}.") from error
    # UnpicklingError for code or damage, RuntimeError for a damaged archive, EOFError and others for other files
    except Exception as error:
        raise ModelError(_refusal(path, error)) from error
    return _tensors_in(content, path)


def _refusal(path: Path, error: Exception) -> str:
    if not re.search("unsupported global|torchscript", str(error), re.IGNORECASE):
        # without torch's advice to open the file unsafely, which would not even help
        reason = (str(error).strip().splitlines() or ["it is empty"])[0].partition(". ")[0].rstrip(".")
        return f"--weights {path} is damaged or was not written by torch.save ({type(error).__name__}: {reason})."
    return (
        f"--weights {path} contains more than tensors (such as a whole pickled model), and opening it would run code "
        "from the file. If you trust its origin, convert it once in the environment that wrote it: "
        "torch.save(torch.load(PATH, weights_only=False).state_dict(), 'weights.pt')."
    )


def _tensors_in(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Return the dict of tensors in the content of a file."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        nested = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            break
        content = nested
    received = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
        received = f"a dict with the keys {shortened(map(repr, content))}"
    raise ModelError(
        f"--weights {path} has no weights: expected a dict of tensors (a state_dict), also under the key "
        f"{' or '.join(map(repr, NESTED[:2]))}, got {received}."
    )


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, replaced: Iterable[str] = ()) -> None:
    """Load `tensors` into `model`, or raise one `ModelError` that lists all mismatches.

    Args:
        model: any module; it is changed only if everything fits.
        tensors: named tensors, possibly with a common prefix such as `module.`.
        source: origin of the tensors, for messages.
        replaced: names of tensors of `model` that keep their values, such as those of a new last layer.
    """
    expected = model.state_dict()
    found = _renamed(tensors, expected)
    kept = set(replaced)
    # batch norms counted no batches before PyTorch 0.4.1
    missing = [
        name for name in expected if name not in found and name not in kept and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {_shape(found[name])}, expected {_shape(value)}"
        for name, value in expected.items()
        if name in found and name not in kept and found[name].shape != value.shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    listed = [f"{len(names)} {kind}: {shortened(names)}" for kind, names in problems if names]
    if listed:
        raise ModelError(f"{source} does not fit the model ({len(expected)} tensors). {'; '.join(listed)}.")
    values = OrderedDict(expected)
    values.update({name: value for name, value in found.items() if name not in kept})
    # the versions of the modules' formats: MNASNet and batch norms convert values that come without them
    values._metadata = getattr(tensors, "_metadata", None) or getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    try:
        model.load_state_dict(values)
    except RuntimeError as error:
        raise ModelError(f"{source} does not fit the model: {error}.") from error


def matching_classes(build: Callable[[int], nn.Module], tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of the model that `tensors` belong to; None if it cannot be determined.

    The last layer is found by building the model, without memory for its weights, with two numbers of classes.
    """
    heads = head_shapes(build)
    if not heads:
        return None
    # any number of classes has the same names
    found = _renamed(tensors, heads | _shapes(build, 2))
    counts = {found[name].shape[0] for name in heads if name in found and found[name].ndim}
    return counts.pop() if len(counts) == 1 else None


def head_shapes(build: Callable[[int], nn.Module]) -> dict[str, Any]:
    """Return the names (and shapes for two classes) of the tensors whose shape depends on the number of classes."""
    two, three = _shapes(build, 2), _shapes(build, 3)
    return {name: shape for name, shape in two.items() if three.get(name) != shape}


def _shapes(build: Callable[[int], nn.Module], classes: int) -> dict[str, Any]:
    try:
        with torch.device("meta"):
            model = build(classes)
    except PellucidError:  # some networks compute with tensor values in their constructor
        model = build(classes)
    return {name: value.shape for name, value in model.state_dict().items()}


def _renamed(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Rename the tensors to the model's names, with as many prefixes removed as fits best."""
    # torchvision's DenseNet weights of 2017 have an extra dot in their names
    legacy = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)\.")
    candidates = [{legacy.sub(r"\1\2.", name): value for name, value in tensors.items()}]
    for _ in range(MOST_PREFIXES):
        shorter = {PREFIX.sub("", name): value for name, value in candidates[-1].items()}
        if len(shorter) < len(candidates[-1]):  # two tensors would have one name, such as those of two models
            break
        candidates.append(shorter)
    return max(candidates, key=lambda found: len(found.keys() & set(expected)))


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a single number"


def shortened(names: Iterable[str]) -> str:
    """Return the first names and the number of remaining ones."""
    names = list(names)
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
