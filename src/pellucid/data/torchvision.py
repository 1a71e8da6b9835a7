"""Classification data sets of torchvision, by the names of their classes."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pellucid.core.errors import ConfigError, DataError, DownloadError, UnknownName
from pellucid.core.importing import import_optional
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options
from pellucid.data._lazy import LazyImages, OpenData
from pellucid.data._read_all import LazySource
from pellucid.data._spec import split_options
from pellucid.data._user_data import of_dataset

__all__ = ["REFUSED", "torchvision"]

REFUSED = {
    "captions": ("CocoCaptions", "Flickr8k", "Flickr30k", "SBU"),
    "bounding boxes": ("CocoDetection", "Kitti", "VOCDetection", "WIDERFace"),
    "segmentation masks": ("Cityscapes", "SBDataset", "VOCSegmentation"),
    "several labels per image": ("CelebA",),
    "pairs of images": ("LFWPairs", "PhotoTour"),
    "depth or optical flow": (
        "CarlaStereo", "CREStereo", "ETH3DStereo", "FallingThingsStereo", "FlyingChairs", "FlyingThings3D", "HD1K",
        "InStereo2k", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "Middlebury2014Stereo", "SceneFlowStereo",
        "Sintel", "SintelStereo",
    ),
    "a cache that is unpickled": ("LSUN", "LSUNClass"),
    "videos": ("HMDB51", "Kinetics", "MovingMNIST", "UCF101"),
}  # fmt: skip
"""Data sets without one class per image, grouped by the kind of target."""
ABSTRACT = ("DatasetFolder", "ImageFolder", "VisionDataset")
OURS = ("download", "loader", "root", "target_transform", "train", "transform", "transforms")
"""Arguments that pellucid chooses."""
TRAIN_SPLITS = ("train", "trainval", "train-standard", "byclass")
TEST_SPLITS = ("test", "val", "valid", "validation")
"""Values of the argument `split`, in the order in which they are tried."""


@DATASETS.register("torchvision")
@LazySource
def torchvision(request: Request) -> OpenData:
    """Open the data set `torchvision.datasets.NAME`, downloading it into `request.folder / "torchvision"`.

    Arguments of its class that have no default, such as EMNIST's `split`, follow after a `?`: `EMNIST?split=letters`.
    torchvision compares downloads with their checksums.

    Raises `UnknownName` for a name that does not exist, `ConfigError` for a data set without one class per image,
    and `DownloadError` if it cannot be downloaded.
    """
    name, options = split_options(request.argument)
    library = import_optional("torchvision.datasets", "--dataset torchvision:…")
    build = _find(library, name)
    parameters = _parameters(build)
    check_options(options, [each for each in parameters if each not in OURS])
    folder = request.folder / "torchvision"
    test = _part(build, name, folder, options, is_train=False)
    has_parts = "train" in parameters or ("split" in parameters and "split" not in options)
    return OpenData(test, _part(build, name, folder, options, is_train=True) if has_parts else None)


def _find(library: Any, name: str) -> Callable[..., Any]:
    """Return the class of a data set."""
    for kind, names in REFUSED.items():
        if name in names:
            raise ConfigError(f"torchvision:{name} has {kind}; expected a data set with one class per image.")
    if name in ABSTRACT:
        raise ConfigError(f"torchvision:{name} reads a folder of your own; use --dataset folder:PATH.")
    other = {*ABSTRACT, *(each for names in REFUSED.values() for each in names)}
    known = {
        each.lower(): each for each in library.__all__ if each not in other and isinstance(getattr(library, each), type)
    }
    if name.lower() not in known:
        raise UnknownName("data set in torchvision", name, sorted(known.values()))
    found: Callable[..., Any] = getattr(library, known[name.lower()])
    return found


def _parameters(build: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, with those that it passes on to its base class as keywords."""
    found: dict[str, inspect.Parameter] = {}
    for each in inspect.getmro(build):
        if "__init__" not in vars(each):
            continue
        own = inspect.signature(vars(each)["__init__"]).parameters
        found = {**{name: one for name, one in own.items() if one.kind != one.VAR_KEYWORD and name != "self"}, **found}
        if not any(one.kind == one.VAR_KEYWORD for one in own.values()):
            break
    return found


def _part(build: Callable[..., Any], name: str, folder: Path, options: dict[str, str], *, is_train: bool) -> LazyImages:
    """Open the training or test images."""
    parameters = _parameters(build)
    arguments: dict[str, Any] = dict(options)
    if "root" in parameters:
        arguments["root"] = str(folder)
    if "train" in parameters:
        arguments["train"] = is_train
    if "split" not in parameters or "split" in options or "train" in parameters:
        splits: tuple[str | None, ...] = (None,)
    else:
        splits = TRAIN_SPLITS if is_train else TEST_SPLITS
    problem: Exception | None = None
    for split in splits:
        try:
            dataset = _built(build, name, arguments if split is None else {**arguments, "split": split}, folder)
        except ValueError as error:  # not the name of a split of this data set
            problem = error
            continue
        images = of_dataset(dataset, f"torchvision:{name}")
        return replace(images, title=name, is_displayed=True)
    raise ConfigError(f"torchvision:{name} cannot be opened: {problem}") from problem


def _built(build: Callable[..., Any], name: str, arguments: dict[str, Any], folder: Path) -> Any:
    """Create the data set, from existing files if possible."""
    can_download = "download" in _parameters(build)
    try:
        return build(**arguments, **({"download": False} if can_download else {}))
    except (ValueError, TypeError) as error:
        if isinstance(error, TypeError):
            raise ConfigError(f"torchvision:{name} needs more arguments: {error}; pass them as ?NAME=VALUE.") from error
        raise
    except Exception as error:
        if not can_download:
            raise DataError(
                f"torchvision:{name} cannot be downloaded; put its files into {folder}. {type(error).__name__}: {error}"
            ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return build(**arguments, download=True)
    except Exception as error:
        raise DownloadError(
            f"torchvision:{name} cannot be downloaded ({type(error).__name__}: {error}). Without a network, put its "
            f"files into {folder}, or name another folder with --data-dir."
        ) from error
