"""Images in Parquet or Arrow files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pellucid.core.errors import DataError
from pellucid.core.importing import import_optional
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options, picture_of, test_parts, train_part
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
from pellucid.data._read_all import LazySource
from pellucid.data._shards import by_part, part_of
from pellucid.data._spec import split_options
from pellucid.data._table import Table, common_classes

__all__ = ["SUFFIXES", "parquet"]

SUFFIXES = (".parquet", ".arrow", ".feather")
"""Suffixes of the supported files."""


@DATASETS.register("parquet")
@LazySource
def parquet(request: Request) -> OpenData:
    """Open a Parquet or Arrow file, or a folder of them, at `request.argument`.

    The images are encoded (PNG, JPEG and so on), in a column of bytes or of structs with `bytes` and `path`, as Hugging
    Face data sets store them. Labels are integers (with class names in Hugging Face's metadata, if it is there) or
    strings. Files belong to the split (train, test or validation) in their own or their folder's name. After a `?`,
    `image=COLUMN`, `label=COLUMN` and `split=NAME` resolve ambiguities. Without a label column, and with `label=none`,
    the images are unlabeled.

    Raises `ConfigError` without pyarrow, and `DataError` if a file or a column is missing, ambiguous or damaged.
    """
    argument, options = split_options(request.argument)
    check_options(options)
    import_optional("pyarrow", "--dataset with Parquet or Arrow files", "parquet")
    path = Path(argument).expanduser()
    root = path if path.is_dir() else path.parent
    tables = {part: Table(tuple(files), root, path.name, options) for part, files in _files(path).items()}
    known = test_parts(list(tables), options.get("split"), path.name)
    # public test splits may come without labels, which are then all -1
    labeled = known if options.get("label") == "none" else [part for part in known if not tables[part].is_unlabeled]
    test = (labeled or known)[0]
    train = train_part(list(tables), test)
    chosen = [tables[part] for part in (test, train) if part is not None]
    classes = common_classes(chosen)
    most = request.max_megapixels * 1_000_000
    sets = [_images(path, table, most, classes) for table in chosen]
    return OpenData(sets[0], sets[1] if train is not None else None)


def _images(path: Path, table: Table, most_pixels: int, classes: tuple[str, ...] | None) -> LazyImages:
    """Return the images of a table."""
    reason = str(table.label) if isinstance(table.label, DataError) else ""
    if not reason and table.is_unlabeled:
        reason = f"{table.name} has no labels in its test split; choose another split: --dataset …?split=NAME."
    labels = None if reason else table.indices(classes)
    return LazyImages(
        f"parquet:{path}",
        path.resolve().stem,
        table.count,
        Reader(table, most_pixels, labels),
        labels,
        classes,
        is_displayed=True,
        unlabeled=reason,
        contents=table.contents,
    )


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the files by split."""
    if path.is_file():
        return {part_of(Path(path.name)): [path]}
    if not path.is_dir():
        raise DataError(
            f"there is no file or folder {path}; --dataset expects a {', '.join(SUFFIXES)} file or a folder."
        )
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(f"the folder {path} has no {', '.join(SUFFIXES)} files.")
    return by_part(found, path)


@dataclass(frozen=True, eq=False)
class Reader:
    """Read the images of chosen rows."""

    table: Table
    most_pixels: int
    labels: torch.Tensor | None

    def __call__(self, indices: Sequence[int] | None) -> Iterator[Item]:
        for row, key, value in self.table.rows(range(self.table.count) if indices is None else indices):
            place = f"row {row} of {self.table.name}"
            if isinstance(value, DataError):
                image: Any = value
            else:
                image = attempt(picture_of, value, (self.table.root,), self.most_pixels, place)
            yield Item(place, image, None if self.labels is None else int(self.labels[row]), key)
