"""Hugging Face data sets: from the Hub, saved to disk, or a folder of images or tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import ConfigError, DataError, DownloadError
from pellucid.core.files import is_shortage
from pellucid.core.importing import import_optional
from pellucid.data import DATASETS, Request
from pellucid.data._columns import (
    OPTIONS,
    check_options,
    image_column,
    optional_label_column,
    picture_of,
    test_parts,
    train_part,
)
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
from pellucid.data._read_all import LazySource
from pellucid.data._spec import split_options

__all__ = ["hf"]


@DATASETS.register("hf")
@LazySource
def hf(request: Request) -> OpenData:
    """Open the data set `request.argument`: a name on the Hub, or a folder.

    A folder is one written by `save_to_disk`, or one that `datasets.load_dataset` understands, such as a folder of
    images. Code in a data set is never run. The image and label columns are recognized by their types. After a `?`,
    `image=COLUMN`, `label=COLUMN`, `split=NAME` and `config=NAME` resolve ambiguities. Without a label
    column, and with `label=none`, the images are unlabeled. Downloads go to the cache of the `datasets` library.

    Raises `ConfigError` without that library, `DownloadError` if the hub cannot be reached, and `DataError` for a data
    set without images or labels.
    """
    argument, options = split_options(request.argument)
    check_options(options, (*OPTIONS, "config"))
    datasets = import_optional("datasets", "--dataset hf:…")
    path = Path(argument).expanduser()
    parts = _load(datasets, argument, path, options.get("config"))
    tables = {name: Table(part, argument, name, options) for name, part in parts.items()}
    known = test_parts(list(tables), options.get("split"), argument)
    # public test splits may come without labels, which are then all -1
    labeled = known if options.get("label") == "none" else [part for part in known if not tables[part].is_unlabeled]
    test = (labeled or known)[0]
    train = train_part(list(tables), test)
    roots = (path,) if path.is_dir() else (Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE))
    names = sorted({*tables[test].strings, *(tables[train].strings if train is not None else ())})
    most = request.max_megapixels * 1_000_000
    sets = [tables[part].images(tuple(names), roots, most) for part in (test, train) if part is not None]
    return OpenData(sets[0], sets[1] if train is not None else None)


def _load(datasets: Any, name: str, path: Path, config: str | None) -> dict[str, Any]:
    """Return the splits by name."""
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.exists() else name, config)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if path.exists():
            raise DataError(f"the data set in {path} cannot be loaded: {reason}") from error
        if _is_network_error(error):
            raise DownloadError(
                f"the data set {name} cannot be downloaded ({reason}). Without a network, give a folder: "
                "--dataset hf:FOLDER."
            ) from error
        raise ConfigError(
            f"--dataset hf:{name} is neither a folder nor a data set that can be loaded: {reason}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"all": loaded}


def _is_network_error(error: BaseException) -> bool:
    """Return True if an error or one of its causes is a network failure."""
    signs = ("Connection", "Offline", "Timeout", "HTTPError", "LocalEntryNotFound", "ProxyError")
    while True:
        if isinstance(error, ConnectionError | TimeoutError) or any(sign in type(error).__name__ for sign in signs):
            return True
        following = error.__cause__ or error.__context__
        if following is None:
            return False
        error = following


@dataclass(frozen=True)
class Table:
    """One split."""

    rows: Any
    data_set: str
    part: str
    options: dict[str, str]

    @cached_property
    def columns(self) -> tuple[str, str | DataError]:
        """Names of the image and label columns; in place of the second, the reason why there are no labels."""
        features = self.rows.features
        kinds = {column: type(feature).__name__ for column, feature in features.items()}
        images = [column for column, kind in kinds.items() if kind == "Image"]
        classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
        plain = [column for column, kind in kinds.items() if kind == "Value"]
        others = [column for column in plain if features[column].dtype.startswith(("int", "uint", "string", "bool"))]
        return (
            image_column(images, list(features), self.options.get("image"), self.data_set),
            optional_label_column(classes, others, list(features), self.options.get("label"), self.data_set),
        )

    @cached_property
    def labels(self) -> np.ndarray:
        """The values of the label column."""
        values = np.asarray(self.rows.with_format(None)[self.columns[1]][:])
        if values.dtype.kind not in "iubU":
            raise DataError(f"the column {self.columns[1]} of {self.data_set} has missing labels; remove these rows.")
        return values

    @property
    def is_unlabeled(self) -> bool:
        """True without a label column, and if every label is negative."""
        if isinstance(self.columns[1], DataError):
            return True
        labels = self.labels
        return bool(len(labels)) and labels.dtype.kind == "i" and bool((labels < 0).all())

    @property
    def strings(self) -> set[str]:
        """The labels that are strings; empty if they are integers."""
        if isinstance(self.columns[1], DataError):
            return set()
        labels = self.labels
        return set(map(str, np.unique(labels))) if labels.dtype.kind == "U" else set()

    def images(self, strings: tuple[str, ...], roots: Sequence[Path], most_pixels: int) -> LazyImages:
        """Return the images; string labels become indices of `strings`."""
        image, label = self.columns
        reason = str(label) if isinstance(label, DataError) else ""
        if not reason and self.is_unlabeled:
            reason = f"{self.data_set} has no labels in its test split; choose another split: --dataset …?split=NAME."
        labels = None if reason else torch.from_numpy(self._codes(strings))
        names = (
            strings if isinstance(label, DataError) else getattr(self.rows.features[label], "names", None) or strings
        )
        # decoded here, with a limit on the number of pixels
        encoded = self.rows.with_format(None).select_columns([image])
        encoded = encoded.cast_column(image, type(self.rows.features[image])(decode=False))

        def items(indices: Sequence[int] | None) -> Iterator[Item]:
            for index in range(len(encoded)) if indices is None else indices:
                place = f"row {index} of the split {self.part} of {self.data_set}"
                picture = attempt(_picture, encoded, int(index), image, roots, most_pixels, place)
                yield Item(place, picture, None if labels is None else int(labels[index]), f"{self.part}:{index}")

        return LazyImages(
            f"hf:{self.data_set}",
            Path(self.data_set).name,
            len(encoded),
            items,
            labels,
            tuple(names) or None,
            is_displayed=True,
            unlabeled=reason,
            contents=self._contents,
        )

    def _codes(self, strings: tuple[str, ...]) -> np.ndarray:
        """Return the labels as class indices."""
        return (np.searchsorted(np.array(strings), self.labels) if strings else self.labels).astype(np.int64)

    def _contents(self) -> Iterator[bytes]:
        is_folder = Path(self.data_set).expanduser().exists()
        yield f"{'' if is_folder else self.data_set}\0{self.part}\0{self.columns}\0{self.rows.features}".encode()


def _picture(rows: Any, index: int, column: str, roots: Sequence[Path], most_pixels: int, place: str) -> Any:
    """Read and decode an image; raises `DataError` if that fails."""
    try:
        cell = rows[index][column]
    except Exception as error:  # of pyarrow, for a damaged file
        if is_shortage(error):
            raise
        raise DataError(f"{place} cannot be read: {type(error).__name__}: {error}") from error
    return picture_of(cell, roots, most_pixels, place)
