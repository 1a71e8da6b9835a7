"""Find the splits, the image column and the label column of a table."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pellucid.core.errors import ConfigError, DataError, UnknownName
from pellucid.data._items import IMAGE_KEYS, LABEL_KEYS
from pellucid.data._pictures import read_picture

__all__ = [
    "check_options",
    "ignores_labels",
    "image_column",
    "label_column",
    "optional_label_column",
    "picture_of",
    "test_parts",
    "train_part",
]

OPTIONS = ("image", "label", "split")
TEST_PARTS = ("test", "testing", "validation", "valid", "val", "dev", "eval")
"""Names of test splits, in the order in which they are tried."""
TRAIN_PARTS = ("train", "training")


def check_options(options: Mapping[str, str], known: Iterable[str] = OPTIONS) -> None:
    """Raise `UnknownName` for an option after the `?` of `--dataset` that does not exist."""
    for name in options:
        if name not in known:
            raise UnknownName("option of this data set", name, known)


def ignores_labels(options: dict[str, str]) -> bool:
    """Remove the option `label=none` of a data set without columns, and return True if it was given.

    Raises `UnknownName` for another value.

    >>> options = {"label": "none", "split": "test"}
    >>> ignores_labels(options), options
    (True, {'split': 'test'})
    """
    label = options.pop("label", None)
    if label not in (None, "none"):
        raise UnknownName("option of this data set", f"label={label}", ("label=none",))
    return label == "none"


def test_parts(parts: Sequence[str], wanted: str | None, name: str) -> list[str]:
    """Return the splits that can be the test set, in order of preference.

    Raises `UnknownName` for a `wanted` split that does not exist, and `ConfigError` if none is recognized.

    >>> test_parts(["train", "validation", "test"], None, "pets")
    ['test', 'validation']
    >>> test_parts(["train"], None, "pets")
    ['train']
    """
    if wanted is not None:
        if wanted not in parts:
            raise UnknownName(f"split of {name}", wanted, parts)
        return [wanted]
    known = [part for part in TEST_PARTS if part in parts] or ([parts[0]] if len(parts) == 1 else [])
    if not known:
        raise ConfigError(
            f"{name} has the splits {', '.join(parts)}, and none is called test or validation; choose one: "
            f"--dataset …?split={parts[0]}."
        )
    return known


def train_part(parts: Sequence[str], test: str) -> str | None:
    """Return the split with the training images; None if `test` is the only split."""
    return next((part for part in TRAIN_PARTS if part in parts and part != test), None)


def image_column(images: Sequence[str], columns: Sequence[str], wanted: str | None, name: str) -> str:
    """Return the column of the images, among those that can be read as images.

    Raises `DataError` unless there is exactly one, and `UnknownName` for a `wanted` column that does not exist.
    """
    if wanted is not None:
        return _wanted("image", wanted, images, columns, name)
    return _only("image", images, IMAGE_KEYS, columns, name)


def label_column(
    classes: Sequence[str], others: Sequence[str], columns: Sequence[str], wanted: str | None, name: str
) -> str:
    """Return the column of the labels: one that is declared as a class label, or else one with a usual name.

    `classes` are columns of class labels, `others` those of integers and strings. Raises `DataError` unless there is
    exactly one, and `UnknownName` for a `wanted` column that does not exist.

    >>> label_column([], ["size", "label"], ["image", "size", "label"], None, "pets")
    'label'
    """
    if wanted is not None:
        return _wanted("label", wanted, [*classes, *others], columns, name)
    if classes:
        return _only("label", classes, LABEL_KEYS, columns, name)
    # a table may have many columns of numbers; only its name identifies the label column
    return _only("label", [column for column in others if column in LABEL_KEYS], LABEL_KEYS, columns, name)


def optional_label_column(
    classes: Sequence[str], others: Sequence[str], columns: Sequence[str], wanted: str | None, name: str
) -> str | DataError:
    """Return the column of the labels, or the reason why the table has none; `wanted` may be "none".

    Raises the errors of `label_column` if there are several columns, or if `wanted` is another one.
    """
    if wanted == "none":
        return DataError(f"{name} was opened without labels (label=none).")
    try:
        return label_column(classes, others, columns, wanted, name)
    except DataError as error:
        if wanted is not None or classes or set(others) & set(LABEL_KEYS):
            raise
        return error


def _wanted(kind: str, wanted: str, candidates: Sequence[str], columns: Sequence[str], name: str) -> str:
    if wanted not in columns:
        raise UnknownName(f"column of {name}", wanted, columns)
    if wanted not in candidates:
        content = "encoded images" if kind == "image" else "integers or strings"
        raise DataError(f"the column {wanted} of {name} does not hold {content}, as the {kind} column must.")
    return wanted


def _only(kind: str, candidates: Sequence[str], keys: Sequence[str], columns: Sequence[str], name: str) -> str:
    """Return the only candidate, or the only one with a usual name."""
    usual = [column for column in candidates if column in keys]
    if len(candidates) == 1 or len(usual) == 1:
        return (usual or list(candidates))[0]
    problem = f"several {kind} columns ({', '.join(candidates)})" if candidates else f"no {kind} column"
    example = candidates[0] if candidates else "COLUMN"
    raise DataError(
        f"{name} has {problem} among its columns {', '.join(columns)}; choose one: --dataset …?{kind}={example}."
    )


def picture_of(value: Any, roots: Sequence[Path], most_pixels: int, place: str) -> Image.Image:
    """Decode a cell: bytes, or a dictionary with bytes or with a path below one of `roots`.

    Raises `DataError` for anything else: a path in an untrusted file must not lead to other files.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(content, bytes):
        return read_picture(BytesIO(content), most_pixels, place)
    if not isinstance(path, str):
        raise DataError(f"{place} has no image; remove the row.")
    for root in roots:
        try:
            file = (root / path).resolve()
            is_there = file.is_relative_to(root.resolve()) and file.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or a loop of links
            is_there = False
        if is_there:
            return read_picture(file, most_pixels, f"{place} ({path})")
    where = " or ".join(map(str, roots))
    raise DataError(f"{place} is the image file {path}, which is not in {where}; only files there are read.")
